package main

import (
	"fmt"
	"regexp"
	"strings"
)

// compileGlob turns one node of a query (what stands between two dots) into a
// test. It knows `*`, `?`, `[ab]`, `[a-z]` and `{one,two}`, whose alternatives
// may hold the others.
func compileGlob(node string) (func(string) bool, error) {
	if !strings.ContainsAny(node, "*?[]{}") {
		return func(name string) bool { return name == node }, nil
	}
	var out strings.Builder
	depth := 0
	for i := 0; i < len(node); i++ {
		switch c := node[i]; {
		case c == '*':
			out.WriteString(".*")
		case c == '?':
			out.WriteByte('.')
		case c == '{':
			depth++
			out.WriteString("(?:")
		case c == '}':
			depth--
			if depth < 0 {
				return nil, fmt.Errorf("cannot read the pattern %q: a } without its {", node)
			}
			out.WriteByte(')')
		case c == ',' && depth > 0:
			out.WriteByte('|')
		case c == '[':
			end := strings.IndexByte(node[i:], ']')
			if end < 2 {
				return nil, fmt.Errorf("cannot read the pattern %q: a [ without its ]", node)
			}
			set := strings.ReplaceAll(node[i+1:i+end], `\`, `\\`)
			if rest, negated := strings.CutPrefix(set, "!"); negated {
				set = "^" + rest
			}
			out.WriteString("[" + set + "]")
			i += end
		default:
			out.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	if depth != 0 {
		return nil, fmt.Errorf("cannot read the pattern %q: a { without its } (a list may not hold dots)", node)
	}
	re, err := regexp.Compile("(?s)^(?:" + out.String() + ")$")
	if err != nil {
		return nil, fmt.Errorf("cannot read the pattern %q: %w", node, err)
	}
	return re.MatchString, nil
}
