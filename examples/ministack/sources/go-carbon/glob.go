package main

import (
	"fmt"
	"regexp"
	"strings"
)

// alternatives writes a query out whose lists hold dots, as in `a.{b,c.d}.e`: one query for each. Lists inside of lists are not taken apart.
func alternatives(query string) []string {
	for begin := 0; ; {
		open := strings.IndexByte(query[begin:], '{')
		if open < 0 {
			return []string{query}
		}
		open += begin
		length := strings.IndexByte(query[open:], '}')
		if length < 0 {
			return []string{query}
		}
		begin = open + length + 1
		list := query[open+1 : begin-1]
		if !strings.Contains(list, ".") || strings.Contains(list, "{") {
			continue
		}
		var out []string
		for part := range strings.SplitSeq(list, ",") {
			out = append(out, alternatives(query[:open]+part+query[begin:])...)
		}
		return out
	}
}

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
		return nil, fmt.Errorf("cannot read the pattern %q: a { without its }", node)
	}
	re, err := regexp.Compile("(?s)^(?:" + out.String() + ")$")
	if err != nil {
		return nil, fmt.Errorf("cannot read the pattern %q: %w", node, err)
	}
	return re.MatchString, nil
}
