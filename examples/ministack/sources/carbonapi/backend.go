package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// mostBytes bounds one answer of a server.
const mostBytes = 256 << 20

// series is one line of a picture: values from start on, one each step seconds, nil where there is none.
type series struct {
	name   string // what the answer calls it
	metric string // the metric it comes from
	start  int64
	step   int64
	values []*float64
	by     func([]float64) float64 // what makes one value of several; nil for their average
}

// found is one answer to a query for names.
type found struct {
	path string
	leaf bool
}

// backends are the carbonservers. Each is asked every time, and what they
// answer is put together: of two that have the same metric the first wins,
// and the other fills its gaps.
type backends struct {
	servers  []string
	counters *counters
	client   http.Client

	mutex   sync.Mutex
	missing map[string]string // who did not answer the last time, and why
}

func newBackends(servers []string, counters *counters) *backends {
	return &backends{servers: servers, counters: counters, client: http.Client{Timeout: 30 * time.Second}, missing: map[string]string{}}
}

// note remembers how a server's last request has ended, and says so when that changes.
func (b *backends) note(server string, err error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	_, was := b.missing[server]
	var user userError
	switch {
	case err == nil || errors.As(err, &user):
		delete(b.missing, server)
		if was {
			log.Printf("a backend answers again: %s", server)
		}
	case errors.Is(err, context.Canceled): // its own sender has given it up
	default:
		b.missing[server] = err.Error()
		if !was {
			log.Printf("a backend does not answer: %s: %v", server, err)
		}
	}
}

// whoIsMissing lists those servers, sorted.
func (b *backends) whoIsMissing() []string {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return slices.Sorted(maps.Keys(b.missing))
}

// fetch asks every server. It fails only if none answers, and then names each with its reason.
func (b *backends) fetch(ctx context.Context, path string, query url.Values, take func([]byte) error) error {
	query.Set("format", "json")
	kind := map[string]string{"/render/": "render", "/metrics/find/": "find"}[path]
	var failures []error
	for _, server := range b.servers {
		b.counters.add("zipper." + kind + "_requests")
		err := b.ask(ctx, server+path+"?"+query.Encode(), take)
		b.note(server, err)
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", server, err))
			b.counters.add("zipper." + kind + "_errors")
		}
	}
	if len(failures) == len(b.servers) {
		return errors.Join(failures...)
	}
	return nil
}

func (b *backends) ask(ctx context.Context, address string, take func([]byte) error) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	answer, err := b.client.Do(request)
	if err != nil {
		return errors.Unwrap(err) // the outer one repeats the address
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, mostBytes))
	switch {
	case err != nil:
		return err
	case answer.StatusCode == http.StatusNotFound:
		return nil // the real carbonserver's way to say that nothing matches
	case answer.StatusCode == http.StatusBadRequest:
		return mistake("%s", strings.TrimSpace(string(body)))
	case answer.StatusCode != http.StatusOK:
		return fmt.Errorf("it answered %s: %s", answer.Status, strings.TrimSpace(string(body[:min(len(body), 200)])))
	}
	return take(body)
}

// read gives the metrics that a path with wildcards names, sorted by name.
func (b *backends) read(ctx context.Context, target string, from, until int64) ([]series, error) {
	query := url.Values{"target": {target}, "from": {strconv.FormatInt(from, 10)}, "until": {strconv.FormatInt(until, 10)}}
	all := map[string]series{}
	err := b.fetch(ctx, "/render/", query, func(body []byte) error {
		var answer struct {
			Metrics []struct {
				Name      string    `json:"name"`
				StartTime int64     `json:"startTime"`
				StepTime  int64     `json:"stepTime"`
				Values    []float64 `json:"values"`
				IsAbsent  []bool    `json:"isAbsent"`
			} `json:"metrics"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return fmt.Errorf("cannot read its answer: %w", err)
		}
		for _, m := range answer.Metrics {
			if m.StepTime < 1 || len(m.IsAbsent) != len(m.Values) {
				return errors.New("cannot read its answer: a metric without a step or with too few values")
			}
			s := series{name: m.Name, metric: m.Name, start: m.StartTime, step: m.StepTime, values: make([]*float64, len(m.Values))}
			for i := range m.Values {
				if !m.IsAbsent[i] {
					s.values[i] = &m.Values[i]
				}
			}
			all[m.Name] = fillGaps(all[m.Name], s)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var sorted []series
	for _, s := range all {
		sorted = append(sorted, s)
	}
	slices.SortFunc(sorted, func(a, b series) int { return strings.Compare(a.name, b.name) })
	return sorted, nil
}

// fillGaps keeps the first series; where it has no value the other's is taken, if both have the same times.
func fillGaps(first, other series) series {
	if first.step == 0 {
		return other
	}
	if first.step == other.step && first.start == other.start {
		for i := range min(len(first.values), len(other.values)) {
			if first.values[i] == nil {
				first.values[i] = other.values[i]
			}
		}
	}
	return first
}

// find gives the names that match the query, sorted.
func (b *backends) find(ctx context.Context, query string) ([]found, error) {
	all := map[found]bool{}
	err := b.fetch(ctx, "/metrics/find/", url.Values{"query": {query}}, func(body []byte) error {
		var answer struct {
			Metrics []struct {
				Matches []struct {
					Path   string `json:"path"`
					IsLeaf bool   `json:"isLeaf"`
				} `json:"matches"`
			} `json:"metrics"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return fmt.Errorf("cannot read its answer: %w", err)
		}
		for _, m := range answer.Metrics {
			for _, match := range m.Matches {
				all[found{match.Path, match.IsLeaf}] = true
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var sorted []found
	for f := range all {
		sorted = append(sorted, f)
	}
	slices.SortFunc(sorted, func(a, b found) int { return strings.Compare(a.path, b.path) })
	return sorted, nil
}
