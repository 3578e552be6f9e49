package main

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// retention says how fine and how long a metric is kept.
type retention struct {
	step   int64 // seconds from one point to the next
	points int   // how many of them are kept
}

// rule is one section of storage-schemas.conf.
type rule struct {
	name    string
	pattern *regexp.Regexp
	keep    retention
}

// schemas are the rules in the file's order; the first that matches counts.
type schemas []rule

func (s schemas) find(metric string) (retention, bool) {
	for _, r := range s {
		if r.pattern.MatchString(metric) {
			return r.keep, true
		}
	}
	return retention{}, false
}

// readSchemas reads storage-schemas.conf. Of several archives only the first,
// the finest, is used: the miniature makes no coarser copies.
func readSchemas(path string) (schemas, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the schemas: %w", err)
	}
	defer file.Close()

	var all schemas
	scanner := bufio.NewScanner(file)
	for number := 1; scanner.Scan(); number++ {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if line[0] == '[' && line[len(line)-1] == ']' {
			all = append(all, rule{name: line[1 : len(line)-1]})
			continue
		}
		if len(all) == 0 {
			return nil, fmt.Errorf("cannot read the schemas %s: line %d stands before the first [section]", path, number)
		}
		if err := all[len(all)-1].set(line); err != nil {
			return nil, fmt.Errorf("cannot read the schemas %s: line %d: %w", path, number, err)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("cannot read the schemas %s: %w", path, err)
	}
	for _, r := range all {
		if r.pattern == nil || r.keep.step == 0 {
			return nil, fmt.Errorf("cannot use the schemas %s: [%s] needs a pattern and retentions", path, r.name)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("cannot use the schemas %s: it has no [section]", path)
	}
	return all, nil
}

func (r *rule) set(line string) error {
	key, value, ok := strings.Cut(line, "=")
	if !ok {
		return fmt.Errorf("%q is not `key = value`", line)
	}
	value = strings.TrimSpace(value)
	var err error
	switch strings.ToLower(strings.TrimSpace(key)) {
	case "pattern":
		r.pattern, err = regexp.Compile(value)
	case "retentions":
		r.keep, err = parseRetention(strings.Split(value, ",")[0])
	}
	return err
}

// parseRetention reads one archive: "60s:30d", or "60:1440" in seconds and points.
func parseRetention(text string) (retention, error) {
	first, second, ok := strings.Cut(strings.TrimSpace(text), ":")
	if !ok {
		return retention{}, fmt.Errorf("the retention %q is not `step:time`", text)
	}
	step, _, err := parseSpan(first)
	if err != nil {
		return retention{}, err
	}
	length, isTime, err := parseSpan(second)
	if err != nil {
		return retention{}, err
	}
	if isTime {
		length /= step
	}
	if length < 1 {
		return retention{}, fmt.Errorf("the retention %q keeps no point", text)
	}
	return retention{step: step, points: int(length)}, nil
}

// parseSpan reads "60", "60s", "5m", "1d"… and says whether a unit was given.
func parseSpan(text string) (seconds int64, hasUnit bool, err error) {
	text = strings.TrimSpace(text)
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyz")
	number, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || number < 1 {
		return 0, false, fmt.Errorf("%q is not a span of time", text)
	}
	unit := text[len(digits):]
	if unit == "" {
		return number, false, nil
	}
	units := map[byte]int64{'s': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 7 * 86400, 'y': 365 * 86400}
	factor, ok := units[unit[0]]
	if !ok {
		return 0, false, fmt.Errorf("%q has an unknown unit (known: s m h d w y)", text)
	}
	return number * factor, true, nil
}
