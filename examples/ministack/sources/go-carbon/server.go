package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// mostSeries bounds how many metrics one /render may name.
const mostSeries = 10_000

// Server answers queries over HTTP as the real carbonserver does with
// format=json: the same paths and the same shape of the answers.
type Server struct {
	store                *Store
	finds, reads, misses atomic.Int64
	http                 http.Server
}

// The answers' shapes. They are carbonserver's, made from its protobuf messages.
type (
	findAnswer struct {
		Metrics []findResult `json:"metrics"`
	}
	findResult struct {
		Name    string      `json:"name"`
		Matches []findMatch `json:"matches"`
	}
	findMatch struct {
		Path   string `json:"path"`
		IsLeaf bool   `json:"isLeaf"`
	}
	renderAnswer struct {
		Metrics []renderResult `json:"metrics"`
	}
	renderResult struct {
		Name      string    `json:"name"`
		StartTime int64     `json:"startTime"`
		StopTime  int64     `json:"stopTime"`
		StepTime  int64     `json:"stepTime"`
		Values    []float64 `json:"values"`
		IsAbsent  []bool    `json:"isAbsent"`
	}
)

// serve starts the server in the background.
func serve(address string, store *Store) (*Server, error) {
	s := &Server{store: store}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /robots.txt", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "User-agent: *\nDisallow: /\n")
	})
	for _, end := range []string{"", "/{$}"} {
		mux.HandleFunc("GET /metrics/find"+end, s.find)
		mux.HandleFunc("GET /render"+end, s.render)
	}
	s.http = http.Server{Handler: mux, ReadTimeout: time.Minute, WriteTimeout: time.Minute}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for carbonserver: %w", err)
	}
	log.Printf("carbonserver: listening on %s", l.Addr())
	go func() {
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Printf("carbonserver: %v", err)
		}
	}()
	return s, nil
}

func (s *Server) find(w http.ResponseWriter, r *http.Request) {
	s.finds.Add(1)
	hits := 0
	query := r.URL.Query()
	if !wantsJSON(w, query.Get("format")) {
		return
	}
	if len(query["query"]) == 0 {
		http.Error(w, "Bad request (no query)", http.StatusBadRequest)
		return
	}
	var answer findAnswer
	for _, q := range query["query"] {
		found, err := s.store.Find(q)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		result := findResult{Name: q, Matches: []findMatch{}}
		for _, m := range found {
			result.Matches = append(result.Matches, findMatch{m.path, m.leaf})
		}
		hits += len(found)
		answer.Metrics = append(answer.Metrics, result)
	}
	if hits == 0 {
		s.misses.Add(1)
	}
	respond(w, answer)
}

func (s *Server) render(w http.ResponseWriter, r *http.Request) {
	s.reads.Add(1)
	query := r.URL.Query()
	if !wantsJSON(w, query.Get("format")) {
		return
	}
	from, err1 := strconv.ParseInt(query.Get("from"), 10, 64)
	until, err2 := strconv.ParseInt(query.Get("until"), 10, 64)
	if err1 != nil || err2 != nil || from >= until {
		http.Error(w, "Bad request (from and until must be seconds since 1970, from before until)", http.StatusBadRequest)
		return
	}
	if len(query["target"]) == 0 {
		http.Error(w, "Bad request (no target)", http.StatusBadRequest)
		return
	}
	now := time.Now().Unix()
	answer := renderAnswer{Metrics: []renderResult{}}
	for _, target := range query["target"] {
		found, err := s.store.Find(target)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for _, m := range found {
			if !m.leaf {
				continue
			}
			if len(answer.Metrics) == mostSeries {
				http.Error(w, fmt.Sprintf("Bad request (more than %d metrics)", mostSeries), http.StatusBadRequest)
				return
			}
			if values, ok := s.store.Read(m.path, from, until, now); ok {
				answer.Metrics = append(answer.Metrics, result(m.path, values))
			}
		}
	}
	if len(answer.Metrics) == 0 {
		s.misses.Add(1)
	}
	respond(w, answer)
}

func result(name string, w window) renderResult {
	r := renderResult{
		Name: name, StartTime: w.start, StopTime: w.stop, StepTime: w.step,
		Values:   make([]float64, len(w.values)),
		IsAbsent: make([]bool, len(w.values)),
	}
	for i, v := range w.values {
		if v == nil {
			r.IsAbsent[i] = true
		} else {
			r.Values[i] = *v
		}
	}
	return r
}

func wantsJSON(w http.ResponseWriter, format string) bool {
	if format == "" || format == "json" {
		return true
	}
	http.Error(w, fmt.Sprintf("Bad request (the miniature knows format=json only, not %q)", format), http.StatusBadRequest)
	return false
}

func respond(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		log.Printf("carbonserver: cannot answer: %v", err)
	}
}
