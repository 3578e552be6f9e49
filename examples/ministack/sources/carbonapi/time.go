package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// parseTime reads a time as Graphite writes it: seconds since 1970, `now`,
// `-1h`, `now-30min`. Dates and words such as `midnight` are not known.
func parseTime(text string, now time.Time) (int64, error) {
	text = strings.TrimSpace(text)
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil && seconds >= 0 {
		return seconds, nil
	}
	rest := strings.TrimPrefix(text, "now")
	if rest == "" && text != "" {
		return now.Unix(), nil
	}
	if text != "" && (rest[0] == '-' || rest[0] == '+') {
		if span, err := parseSpan(rest[1:]); err == nil {
			if rest[0] == '-' {
				span = -span
			}
			return now.Unix() + span, nil
		}
	}
	return 0, fmt.Errorf("cannot read the time %q: the miniature knows seconds since 1970, now, and -1h or now-30min (s min h d w mon y)", text)
}

// parseSpan reads "30s", "5min", "1h"…
func parseSpan(text string) (seconds int64, err error) {
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyz")
	count, err := strconv.ParseInt(digits, 10, 32)
	if err != nil {
		return 0, err
	}
	switch unit := text[len(digits):]; unit {
	case "s", "sec", "secs", "second", "seconds":
		return count, nil
	case "m", "min", "mins", "minute", "minutes":
		return count * 60, nil
	case "h", "hour", "hours":
		return count * 3600, nil
	case "d", "day", "days":
		return count * 86400, nil
	case "w", "week", "weeks":
		return count * 7 * 86400, nil
	case "mon", "month", "months":
		return count * 30 * 86400, nil
	case "y", "year", "years":
		return count * 365 * 86400, nil
	default:
		return 0, fmt.Errorf("%q is not a unit of time", unit)
	}
}
