package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// mostForm bounds the body of a POST.
const mostForm = 1 << 20

// api answers over HTTP.
type api struct {
	backends *backends
	counters *counters
	now      func() time.Time
}

func newAPI(servers []string, counters *counters, now func() time.Time) http.Handler {
	a := &api{newBackends(servers, counters), counters, now}
	mux := http.NewServeMux()
	for _, end := range []string{"", "/{$}"} {
		mux.Handle("/render"+end, counters.counting(http.HandlerFunc(a.render)))
		mux.Handle("/metrics/find"+end, counters.counting(http.HandlerFunc(a.find)))
		mux.Handle("/metrics/expand"+end, counters.counting(http.HandlerFunc(a.expand)))
		mux.HandleFunc("/lb_check"+end, a.check)
		mux.HandleFunc("/version"+end, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, BuildVersion) })
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodPost {
			http.Error(w, "only GET and POST are answered", http.StatusMethodNotAllowed)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, mostForm)
		mux.ServeHTTP(w, r)
	})
}

// check answers "Ok"; asked for the backends, it asks them, and names those that do not answer.
func (a *api) check(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Has("backends") {
		_, _ = a.backends.find(r.Context(), "*") // whoever fails is remembered
		if missing := a.backends.whoIsMissing(); len(missing) > 0 {
			http.Error(w, strings.Join(missing, "\n"), http.StatusServiceUnavailable)
			return
		}
	}
	fmt.Fprintln(w, "Ok")
}

// line is one series of an answer, as Graphite's JSON has it: values with their times in seconds.
type line struct {
	Target     string            `json:"target"`
	Datapoints [][2]*float64     `json:"datapoints"`
	Tags       map[string]string `json:"tags"`
}

// render answers the targets over a window of time, from excluded, until
// included. Times are multiples of each metric's step. With maxDataPoints,
// series that have more are made coarser by averages.
func (a *api) render(w http.ResponseWriter, r *http.Request) {
	a.counters.add("render_requests")
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	lines, err := a.lines(r)
	var user userError
	switch {
	case errors.As(err, &user):
		http.Error(w, err.Error(), http.StatusBadRequest)
	case err != nil:
		log.Printf("cannot answer %q: %v", r.Form["target"], err)
		http.Error(w, "cannot ask the backends: "+err.Error(), http.StatusServiceUnavailable)
	default:
		a.respond(w, lines)
	}
}

func (a *api) lines(r *http.Request) ([]line, error) {
	if format := r.Form.Get("format"); format != "json" {
		return nil, mistake("cannot answer with format=%q: the miniature knows format=json only", format)
	}
	if len(r.Form["target"]) == 0 {
		return nil, mistake("cannot answer without a target")
	}
	from, until, err := a.window(r)
	if err != nil {
		return nil, err
	}
	most := math.MaxInt32
	if given := r.Form.Get("maxDataPoints"); given != "" {
		if most, err = strconv.Atoi(given); err != nil || most < 1 {
			return nil, mistake("cannot use maxDataPoints=%q: it is not a number", given)
		}
	}
	lines := []line{}
	q := &request{r.Context(), a.backends, from, until}
	for _, target := range r.Form["target"] {
		e, err := parse(target)
		if err != nil {
			return nil, userError{err}
		}
		all, err := q.evaluate(e)
		if err != nil {
			return nil, err
		}
		for _, s := range all {
			if n := len(s.values); n > most {
				s = s.coarser(s.step * int64((n+most-1)/most))
			}
			lines = append(lines, s.line())
		}
	}
	return lines, nil
}

// window reads from and until; without them it is the last day.
func (a *api) window(r *http.Request) (from, until int64, err error) {
	text := map[string]string{"from": "-24h", "until": "now"}
	times := map[string]int64{}
	for name, value := range text {
		if given := r.Form.Get(name); given != "" {
			value = given
		}
		if times[name], err = parseTime(value, a.now()); err != nil {
			return 0, 0, userError{fmt.Errorf("%s: %w", name, err)}
		}
	}
	if times["from"] >= times["until"] {
		return 0, 0, mistake("cannot answer: from (%d) is not before until (%d)", times["from"], times["until"])
	}
	return times["from"], times["until"], nil
}

func (s series) line() line {
	l := line{Target: s.name, Datapoints: [][2]*float64{}, Tags: map[string]string{"name": s.metric}}
	for i, v := range s.values {
		if v != nil && (math.IsNaN(*v) || math.IsInf(*v, 0)) {
			v = nil // JSON has no way to say it
		}
		t := float64(s.start + int64(i)*s.step)
		l.Datapoints = append(l.Datapoints, [2]*float64{v, &t})
	}
	return l
}

// find answers which names match a query: format=treejson (or json, the same)
// or completer, in Graphite's shapes.
func (a *api) find(w http.ResponseWriter, r *http.Request) {
	a.counters.add("find_requests")
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	query, format := r.Form.Get("query"), r.Form.Get("format")
	if query == "" {
		http.Error(w, "cannot answer without a query", http.StatusBadRequest)
		return
	}
	if format != "" && format != "json" && format != "treejson" && format != "completer" {
		http.Error(w, fmt.Sprintf("cannot answer with format=%q: the miniature knows json, treejson and completer", format), http.StatusBadRequest)
		return
	}
	if format == "completer" && !strings.HasSuffix(query, "*") {
		query += "*"
	}
	matches, err := a.backends.find(r.Context(), query)
	if err != nil {
		log.Printf("cannot find %q: %v", query, err)
		http.Error(w, "cannot ask the backends: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	if format == "completer" {
		a.respond(w, completer(matches))
	} else {
		a.respond(w, treejson(query, matches))
	}
}

// expand answers which names match queries, whole.
func (a *api) expand(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	results := []string{}
	for _, query := range r.Form["query"] {
		matches, err := a.backends.find(r.Context(), query)
		if err != nil {
			log.Printf("cannot expand %q: %v", query, err)
			http.Error(w, "cannot ask the backends: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		for _, m := range matches {
			results = append(results, m.path)
		}
	}
	slices.Sort(results)
	a.respond(w, map[string][]string{"results": slices.Compact(results)})
}

type treeNode struct {
	AllowChildren int            `json:"allowChildren"`
	Context       map[string]int `json:"context"`
	Expandable    int            `json:"expandable"`
	ID            string         `json:"id"`
	Leaf          int            `json:"leaf"`
	Text          string         `json:"text"`
}

// treejson names each last part once, below the query's folder.
func treejson(query string, matches []found) []treeNode {
	base := query[:strings.LastIndexByte(query, '.')+1]
	tree := []treeNode{}
	index := map[string]int{}
	for _, m := range matches {
		name := m.path[strings.LastIndexByte(m.path, '.')+1:]
		at, seen := index[name]
		if !seen {
			at = len(tree)
			index[name] = at
			tree = append(tree, treeNode{Context: map[string]int{}, ID: base + name, Text: name})
		}
		if m.leaf {
			tree[at].Leaf = 1
		} else {
			tree[at].AllowChildren, tree[at].Expandable = 1, 1
		}
	}
	return tree
}

func completer(matches []found) any {
	type item struct {
		Path   string `json:"path"`
		Name   string `json:"name"`
		IsLeaf string `json:"is_leaf"`
	}
	items := []item{}
	for _, m := range matches {
		i := item{m.path, m.path[strings.LastIndexByte(m.path, '.')+1:], "1"}
		if !m.leaf {
			i.Path, i.IsLeaf = m.path+".", "0"
		}
		items = append(items, i)
	}
	return map[string]any{"metrics": items}
}

func (a *api) respond(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json")
	if missing := a.backends.whoIsMissing(); len(missing) > 0 {
		w.Header().Set("X-Carbonapi-Missing-Backends", strings.Join(missing, ", "))
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		log.Printf("cannot answer: %v", err)
	}
}
