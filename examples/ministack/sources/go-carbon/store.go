package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const (
	extension = ".points"
	// longestNode bounds one node of a metric's name, so that a file can be named after it everywhere.
	longestNode = 200
	longestName = 1000
)

// point is one value, its time rounded down to the metric's step.
type point struct {
	time  int64 // seconds since 1970
	value float64
}

// series is one metric.
type series struct {
	name   string
	keep   retention
	points []point // sorted by time, one for each time
	fresh  []point // those of them that the file does not have yet, as they came
	lines  int     // lines in the file
}

// node is a place in the tree of names; a name may be both a metric and a folder of others.
type node struct {
	children map[string]*node
	metric   *series
}

// Store keeps all points in memory, and in one text file for each metric:
// `a.b.c` is a/b/c.points, each line of it a time and a value.
//
// Lines are appended once a second by flush, without fsync: a killed process
// loses at most that second, a machine without power more. The orderly stop
// (SIGUSR2) flushes with fsync. A line that was torn is dropped at the next start.
type Store struct {
	dir string

	mutex   sync.Mutex // guards all below
	rules   schemas
	root    *node
	metrics map[string]*series
	unsaved int
	written int64 // points
	updates int64 // writes to files
	created int64 // metrics that were not there at the start

	flushing sync.Mutex // one flush at a time
	troubled bool       // the last flush failed; guarded by flushing
}

// openStore reads what earlier runs left under dir, which is made if missing.
func openStore(dir string, rules schemas) (*Store, error) {
	s := &Store{dir: dir, rules: rules, root: &node{}, metrics: map[string]*series{}}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the data folder: %w", err)
	}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, extension) {
			return err
		}
		rel, err := filepath.Rel(dir, strings.TrimSuffix(path, extension))
		if err != nil {
			return err
		}
		return s.load(path, strings.ReplaceAll(rel, string(filepath.Separator), "."))
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the data folder: %w", err)
	}
	return s, nil
}

func (s *Store) load(path, name string) error {
	m, err := s.metric(name)
	if err != nil {
		log.Printf("left out %s: %v", path, err)
		return nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	torn := false
	for line := range strings.Lines(string(content)) {
		m.lines++
		p, ok := parseRecord(line)
		if ok {
			m.insert(p)
		} else {
			torn = true
		}
	}
	if torn || m.lines > 2*m.keep.points {
		return s.rewrite(m)
	}
	return nil
}

// parseRecord reads one line of a file; one without its end was torn.
func parseRecord(line string) (point, bool) {
	line, whole := strings.CutSuffix(line, "\n")
	first, second, ok := strings.Cut(line, " ")
	if !whole || !ok {
		return point{}, false
	}
	t, err1 := strconv.ParseInt(first, 10, 64)
	v, err2 := strconv.ParseFloat(second, 64)
	return point{t, v}, err1 == nil && err2 == nil
}

func (p point) record() string {
	return strconv.FormatInt(p.time, 10) + " " + strconv.FormatFloat(p.value, 'g', -1, 64) + "\n"
}

// setRules takes new schemas for metrics that are not known yet; those that are keep theirs, as with whisper files.
func (s *Store) setRules(rules schemas) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.rules = rules
}

// checkName refuses what could not be a file's path below the data folder.
func checkName(name string) error {
	if len(name) > longestName {
		return errors.New("the name is too long")
	}
	for part := range strings.SplitSeq(name, ".") {
		if part == "" || len(part) > longestNode {
			return errors.New("the name has an empty or a too long node")
		}
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r == '\\' || r == 0x7f }) {
		return errors.New("the name has a slash or a control character")
	}
	return nil
}

// metric finds a metric or makes it. The caller holds the mutex (or is alone).
func (s *Store) metric(name string) (*series, error) {
	if m := s.metrics[name]; m != nil {
		return m, nil
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	keep, ok := s.rules.find(name)
	if !ok {
		return nil, errors.New("no schema matches the name")
	}
	m := &series{name: name, keep: keep}
	s.metrics[name] = m
	at := s.root
	for part := range strings.SplitSeq(name, ".") {
		child := at.children[part]
		if child == nil {
			child = &node{}
			if at.children == nil {
				at.children = map[string]*node{}
			}
			at.children[part] = child
		}
		at = child
	}
	at.metric = m
	return m, nil
}

// Add takes one point.
func (s *Store) Add(name string, time int64, value float64) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	known := len(s.metrics)
	m, err := s.metric(name)
	if err != nil {
		return err
	}
	s.created += int64(len(s.metrics) - known)
	p := point{time - time%m.keep.step, value}
	m.insert(p)
	m.fresh = append(m.fresh, p)
	s.unsaved++
	return nil
}

// insert keeps the points sorted, the last value for a time winning, and drops the oldest beyond the retention.
func (m *series) insert(p point) {
	n := len(m.points)
	if n == 0 || m.points[n-1].time < p.time {
		m.points = append(m.points, p)
	} else {
		at, found := slices.BinarySearchFunc(m.points, p.time, func(q point, t int64) int { return int(q.time - t) })
		if found {
			m.points[at] = p
		} else {
			m.points = slices.Insert(m.points, at, p)
		}
	}
	if len(m.points) > m.keep.points {
		m.points = m.points[len(m.points)-m.keep.points:]
	}
}

func (s *Store) path(name string) string {
	return filepath.Join(s.dir, filepath.FromSlash(strings.ReplaceAll(name, ".", "/"))+extension)
}

// Flush appends to the files what they do not have yet. What cannot be written
// stays in memory and is tried again by the next flush.
func (s *Store) Flush(sync bool) error {
	s.flushing.Lock()
	defer s.flushing.Unlock()

	type batch struct {
		m      *series
		points []point
	}
	var work []batch
	s.mutex.Lock()
	for _, m := range s.metrics {
		if len(m.fresh) > 0 {
			work = append(work, batch{m, m.fresh})
			m.fresh = nil
		}
	}
	s.mutex.Unlock()

	var failure error
	for _, b := range work {
		err := s.append(b.m, b.points, sync)
		s.mutex.Lock()
		if err != nil {
			failure = err
			b.m.fresh = append(b.points, b.m.fresh...)
		} else {
			s.unsaved -= len(b.points)
			s.written += int64(len(b.points))
			s.updates++
		}
		s.mutex.Unlock()
	}
	s.report(failure)
	return failure
}

// report says once that writing fails, and once that it works again.
func (s *Store) report(failure error) {
	switch {
	case failure != nil && !s.troubled:
		log.Printf("cannot write points, they stay in memory: %v", failure)
	case failure == nil && s.troubled:
		log.Print("points can be written again")
	}
	s.troubled = failure != nil
}

func (s *Store) append(m *series, points []point, sync bool) error {
	if m.lines+len(points) > 2*m.keep.points+1000 {
		return s.rewrite(m)
	}
	path := s.path(m.name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	before, err := file.Stat()
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, p := range points {
		text.WriteString(p.record())
	}
	if _, err := file.WriteString(text.String()); err != nil {
		// Half a write would be doubled by the next try.
		return errors.Join(err, file.Truncate(before.Size()))
	}
	if sync {
		if err := file.Sync(); err != nil {
			return err
		}
	}
	m.lines += len(points)
	return nil
}

// rewrite replaces a file by what memory holds: beside it first, then renamed.
func (s *Store) rewrite(m *series) error {
	s.mutex.Lock()
	points := slices.Clone(m.points)
	s.mutex.Unlock()

	path := s.path(m.name)
	beside := path + ".new"
	file, err := os.Create(beside)
	if err != nil {
		return err
	}
	defer file.Close()
	out := bufio.NewWriter(file)
	for _, p := range points {
		out.WriteString(p.record())
	}
	if err := errors.Join(out.Flush(), file.Sync()); err != nil {
		return err
	}
	if err := os.Rename(beside, path); err != nil {
		return err
	}
	m.lines = len(points)
	return nil
}

// match is one answer to a query.
type match struct {
	path string
	leaf bool
}

// Find answers a query with wildcards. A name that is both a metric and a folder is given twice.
func (s *Store) Find(query string) ([]match, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	all := map[match]bool{}
	for _, query := range alternatives(query) {
		found, err := s.find(query)
		if err != nil {
			return nil, err
		}
		for _, m := range found {
			all[m] = true
		}
	}
	found := slices.Collect(maps.Keys(all))
	slices.SortFunc(found, func(a, b match) int {
		if a.path == b.path {
			return map[bool]int{true: -1, false: 1}[a.leaf]
		}
		return strings.Compare(a.path, b.path)
	})
	return found, nil
}

// find answers a query whose lists hold no dots. The caller holds the mutex.
func (s *Store) find(query string) ([]match, error) {
	type place struct {
		path string
		node *node
	}
	places := []place{{"", s.root}}
	for part := range strings.SplitSeq(query, ".") {
		test, err := compileGlob(part)
		if err != nil {
			return nil, err
		}
		var next []place
		for _, p := range places {
			for name, child := range p.node.children {
				if test(name) {
					next = append(next, place{strings.TrimPrefix(p.path+"."+name, "."), child})
				}
			}
		}
		places = next
	}
	found := []match{}
	for _, p := range places {
		if p.node.metric != nil {
			found = append(found, match{p.path, true})
		}
		if len(p.node.children) > 0 {
			found = append(found, match{p.path, false})
		}
	}
	return found, nil
}

// window is a metric's values from start (included) to stop (excluded), one for each step, nil where there is none.
type window struct {
	start, stop, step int64
	values            []*float64
}

// Read gives the values after from up to until. It begins no earlier than the retention reaches back from now.
func (s *Store) Read(name string, from, until, now int64) (window, bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	m := s.metrics[name]
	if m == nil {
		return window{}, false
	}
	step := m.keep.step
	from = max(from, now-step*int64(m.keep.points))
	until = min(until, now)
	w := window{start: from - from%step + step, stop: until - until%step + step, step: step}
	if w.stop <= w.start {
		w.stop = w.start + step
	}
	w.values = make([]*float64, (w.stop-w.start)/step)
	at, _ := slices.BinarySearchFunc(m.points, w.start, func(q point, t int64) int { return int(q.time - t) })
	for _, p := range m.points[at:] {
		if p.time >= w.stop {
			break
		}
		value := p.value
		w.values[(p.time-w.start)/step] = &value
	}
	return w, true
}

// figures are the store's own.
type figures struct {
	metrics, unsaved          int
	written, updates, created int64
}

func (s *Store) figures() figures {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return figures{len(s.metrics), s.unsaved, s.written, s.updates, s.created}
}
