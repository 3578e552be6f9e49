package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
)

// request is what one /render is about.
type request struct {
	ctx         context.Context
	backends    *backends
	from, until int64
}

// userError is a mistake in the query, answered with 400; anything else is the backends' fault.
type userError struct{ error }

func mistake(format string, values ...any) error {
	return userError{fmt.Errorf(format, values...)}
}

// function makes series from a call whose first arguments are series.
type function func(c call, in []series, rest []expression) ([]series, error)

// functions are Graphite's that the miniature knows.
var functions map[string]function

func init() {
	functions = map[string]function{
		"alias":       alias,
		"aliasByNode": aliasByNode,
		"aliasByMetric": func(c call, in []series, _ []expression) ([]series, error) {
			return aliasByNode(c, in, []expression{number(-1)})
		},
		"aliasSub":      aliasSub,
		"consolidateBy": consolidateBy,
		"exclude":       matching(false),
		"grep":          matching(true),
		"groupByNode":   groupByNode,
		"limit":         limit,
		"sortByName":    sortByName,
		"scale":         withNumber(func(v, n float64) float64 { return v * n }),
		"offset":        withNumber(func(v, n float64) float64 { return v + n }),
		"absolute":      each(func(s *series) { s.change(math.Abs) }),
		"invert":        each(func(s *series) { s.change(func(v float64) float64 { return 1 / v }) }),
		"derivative":    each(func(s *series) { s.differences(func(d float64) (float64, bool) { return d, true }) }),
		"group":         func(_ call, in []series, _ []expression) ([]series, error) { return in, nil },
		"nonNegativeDerivative": each(func(s *series) {
			s.differences(func(d float64) (float64, bool) { return d, d >= 0 })
		}),
		"perSecond": each(func(s *series) {
			s.differences(func(d float64) (float64, bool) { return d / float64(s.step), d >= 0 })
		}),
		"keepLastValue": keepLastValue,
	}
	for name, reduce := range reductions {
		functions[name] = combine(reduce)
		functions[name+"Series"] = functions[name]
	}
	functions["averageSeries"] = functions["avg"]
	delete(functions, "avgSeries")
}

// reductions make one value of several; they are given at least one.
var reductions = map[string]func([]float64) float64{
	"sum": sum,
	"avg": func(values []float64) float64 { return sum(values) / float64(len(values)) },
	"min": slices.Min[[]float64],
	"max": slices.Max[[]float64],
	"diff": func(values []float64) float64 {
		return 2*values[0] - sum(values)
	},
}

func sum(values []float64) float64 {
	total := 0.0
	for _, v := range values {
		total += v
	}
	return total
}

// evaluate gives the series of a parsed target.
func (r *request) evaluate(e expression) ([]series, error) {
	switch e := e.(type) {
	case path:
		return r.backends.read(r.ctx, string(e), r.from, r.until)
	case call:
		f, ok := functions[e.name]
		if !ok {
			known := slices.Sorted(maps.Keys(functions))
			return nil, mistake("cannot evaluate %q: the miniature does not know the function %q (it knows %s)", e.source, e.name, strings.Join(known, ", "))
		}
		var in []series
		rest := e.arguments
		for len(rest) > 0 {
			switch rest[0].(type) {
			case path, call:
			default:
				return f(e, in, rest)
			}
			more, err := r.evaluate(rest[0])
			if err != nil {
				return nil, err
			}
			in = append(in, more...)
			rest = rest[1:]
		}
		return f(e, in, rest)
	}
	return nil, mistake("cannot evaluate %v: it is neither a metric nor a function", e)
}

func alias(c call, in []series, rest []expression) ([]series, error) {
	name, ok := textAt(rest, 0)
	if !ok {
		return nil, mistake("cannot evaluate %q: alias needs a name in quotes", c.source)
	}
	for i := range in {
		in[i].name = name
	}
	return in, nil
}

func aliasByNode(c call, in []series, rest []expression) ([]series, error) {
	if len(rest) == 0 {
		return nil, mistake("cannot evaluate %q: it needs a node's number", c.source)
	}
	for i := range in {
		var parts []string
		for at := range rest {
			n, ok := numberAt(rest, at)
			if !ok {
				return nil, mistake("cannot evaluate %q: %v is not a node's number", c.source, rest[at])
			}
			if part, ok := in[i].node(int(n)); ok {
				parts = append(parts, part)
			}
		}
		in[i].name = strings.Join(parts, ".")
	}
	return in, nil
}

// node is a part of the metric's name, counted from the end if negative.
func (s *series) node(n int) (string, bool) {
	parts := strings.Split(s.metric, ".")
	if n < 0 {
		n += len(parts)
	}
	if n < 0 || n >= len(parts) {
		return "", false
	}
	return parts[n], true
}

func aliasSub(c call, in []series, rest []expression) ([]series, error) {
	search, ok1 := textAt(rest, 0)
	replace, ok2 := textAt(rest, 1)
	re, err := regexp.Compile(search)
	if !ok1 || !ok2 || err != nil {
		return nil, mistake("cannot evaluate %q: aliasSub needs a pattern and what replaces it", c.source)
	}
	replace = regexp.MustCompile(`\\(\d)`).ReplaceAllString(replace, "$${$1}")
	for i := range in {
		in[i].name = re.ReplaceAllString(in[i].name, replace)
	}
	return in, nil
}

// matching keeps the series whose name matches a pattern, or those whose does not.
func matching(keep bool) function {
	return func(c call, in []series, rest []expression) ([]series, error) {
		pattern, ok := textAt(rest, 0)
		re, err := regexp.Compile(pattern)
		if !ok || err != nil {
			return nil, mistake("cannot evaluate %q: it needs a pattern in quotes", c.source)
		}
		return slices.DeleteFunc(in, func(s series) bool { return re.MatchString(s.name) != keep }), nil
	}
}

// consolidateBy says what becomes of values that fall together where fewer are wanted.
func consolidateBy(c call, in []series, rest []expression) ([]series, error) {
	how, _ := textAt(rest, 0)
	reduce := reductions[strings.Replace(how, "average", "avg", 1)]
	if how == "last" {
		reduce = func(values []float64) float64 { return values[len(values)-1] }
	}
	if reduce == nil {
		return nil, mistake("cannot evaluate %q: consolidateBy needs sum, avg, min, max or last", c.source)
	}
	for i := range in {
		in[i].by = reduce
		in[i].name = fmt.Sprintf("consolidateBy(%s%s)", in[i].name, written(rest))
	}
	return in, nil
}

func groupByNode(c call, in []series, rest []expression) ([]series, error) {
	n, ok := numberAt(rest, 0)
	how, given := textAt(rest, 1)
	if !given {
		how = "avg"
	}
	how = strings.TrimSuffix(strings.Replace(how, "average", "avg", 1), "Series")
	reduce := reductions[how]
	if !ok || reduce == nil {
		return nil, mistake("cannot evaluate %q: groupByNode needs a node's number and sum, avg, min, max or diff", c.source)
	}
	groups := map[string][]series{}
	for _, s := range in {
		part, _ := s.node(int(n))
		groups[part] = append(groups[part], s)
	}
	var out []series
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		out = append(out, join(groups[name], name, reduce))
	}
	return out, nil
}

func limit(c call, in []series, rest []expression) ([]series, error) {
	n, ok := numberAt(rest, 0)
	if !ok || n < 0 {
		return nil, mistake("cannot evaluate %q: limit needs a number", c.source)
	}
	return in[:min(len(in), int(n))], nil
}

func sortByName(_ call, in []series, _ []expression) ([]series, error) {
	slices.SortStableFunc(in, func(a, b series) int { return strings.Compare(a.name, b.name) })
	return in, nil
}

// keepLastValue fills gaps of at most so many steps (all, without a number) with the value before them.
func keepLastValue(c call, in []series, rest []expression) ([]series, error) {
	longest := math.Inf(1)
	if len(rest) > 0 {
		if n, ok := numberAt(rest, 0); ok {
			longest = n
		}
	}
	return each(func(s *series) {
		last, gap := (*float64)(nil), 0
		for i, v := range s.values {
			if v != nil {
				if last != nil && gap > 0 && float64(gap) <= longest {
					for k := i - gap; k < i; k++ {
						s.values[k] = last
					}
				}
				last, gap = v, 0
			} else {
				gap++
			}
		}
		if last != nil && float64(gap) <= longest {
			for k := len(s.values) - gap; k < len(s.values); k++ {
				s.values[k] = last
			}
		}
	})(c, in, rest)
}

// each is a function that changes every series by itself.
func each(change func(*series)) function {
	return func(c call, in []series, rest []expression) ([]series, error) {
		for i := range in {
			in[i].values = slices.Clone(in[i].values)
			change(&in[i])
			in[i].name = fmt.Sprintf("%s(%s%s)", c.name, in[i].name, written(rest))
		}
		return in, nil
	}
}

func withNumber(change func(value, n float64) float64) function {
	return func(c call, in []series, rest []expression) ([]series, error) {
		n, ok := numberAt(rest, 0)
		if !ok {
			return nil, mistake("cannot evaluate %q: it needs a number", c.source)
		}
		return each(func(s *series) {
			s.change(func(v float64) float64 { return change(v, n) })
		})(c, in, rest)
	}
}

// combine is a function that makes one series of all.
func combine(reduce func([]float64) float64) function {
	return func(c call, in []series, _ []expression) ([]series, error) {
		if len(in) == 0 {
			return nil, nil
		}
		return []series{join(in, c.source, reduce)}, nil
	}
}

// join puts series together, time by time; gaps are left out. Where their
// steps differ, the least common multiple is used, each value of it the
// average of those that fall into it.
func join(in []series, name string, reduce func([]float64) float64) series {
	step := in[0].step
	for _, s := range in[1:] {
		step = step / gcd(step, s.step) * s.step
	}
	start, stop := int64(math.MaxInt64), int64(math.MinInt64)
	for i := range in {
		in[i] = in[i].coarser(step)
		start = min(start, in[i].start)
		stop = max(stop, in[i].start+step*int64(len(in[i].values)))
	}
	out := series{name: name, metric: in[0].metric, start: start, step: step, values: make([]*float64, (stop-start)/step)}
	for i := range out.values {
		var values []float64
		for _, s := range in {
			at := i - int((s.start-start)/step)
			if at >= 0 && at < len(s.values) && s.values[at] != nil {
				values = append(values, *s.values[at])
			}
		}
		if len(values) > 0 {
			v := reduce(values)
			out.values[i] = &v
		}
	}
	return out
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// coarser gives the series with a step that is a multiple of its own, by
// averages unless consolidateBy has said otherwise. Times are rounded down to
// multiples of the new step.
func (s series) coarser(step int64) series {
	if step == s.step || len(s.values) == 0 {
		return s
	}
	out := s
	out.step = step
	out.start = s.start - s.start%step
	last := s.start + s.step*int64(len(s.values)-1)
	out.values = make([]*float64, (last-out.start)/step+1)
	together := make([][]float64, len(out.values))
	for i, v := range s.values {
		if v != nil {
			at := (s.start + s.step*int64(i) - out.start) / step
			together[at] = append(together[at], *v)
		}
	}
	reduce := s.by
	if reduce == nil {
		reduce = reductions["avg"]
	}
	for at, values := range together {
		if len(values) > 0 {
			v := reduce(values)
			out.values[at] = &v
		}
	}
	return out
}

func (s *series) change(f func(float64) float64) {
	for i, v := range s.values {
		if v != nil {
			n := f(*v)
			s.values[i] = &n
		}
	}
}

// differences replaces each value by what f makes of its distance from the one before, or by none.
func (s *series) differences(f func(float64) (float64, bool)) {
	var before *float64
	for i, v := range s.values {
		s.values[i] = nil
		if v != nil && before != nil {
			if d, ok := f(*v - *before); ok {
				s.values[i] = &d
			}
		}
		before = v
	}
}

func numberAt(e []expression, at int) (float64, bool) {
	if at >= len(e) {
		return 0, false
	}
	n, ok := e[at].(number)
	return float64(n), ok
}

func textAt(e []expression, at int) (string, bool) {
	if at >= len(e) {
		return "", false
	}
	t, ok := e[at].(text)
	return string(t), ok
}

func written(rest []expression) string {
	var out strings.Builder
	for _, e := range rest {
		if t, ok := e.(text); ok {
			fmt.Fprintf(&out, ",%q", string(t))
		} else {
			fmt.Fprintf(&out, ",%v", e)
		}
	}
	return out.String()
}
