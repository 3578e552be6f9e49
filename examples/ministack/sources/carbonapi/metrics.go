package main

import (
	"bytes"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// buckets is the number of steps of a tenth of a second that answers are
// sorted into by the time they took.
const buckets = 10

// counters are the program's own figures, under the real program's names as
// far as there is something to count. They rise from the start on.
type counters struct {
	mutex  sync.Mutex
	values map[string]uint64
}

func newCounters() *counters {
	c := &counters{values: map[string]uint64{}}
	for _, name := range strings.Fields("requests render_requests find_requests zipper.render_requests zipper.render_errors zipper.find_requests zipper.find_errors zipper.timeouts") {
		c.values[name] = 0
	}
	for _, status := range strings.Fields("200 400 403 4xx 500 503 5xx") {
		c.values["requests_status_code."+status] = 0
	}
	for i := range buckets + 1 {
		c.values[bucket(i)] = 0
	}
	return c
}

func bucket(i int) string { return fmt.Sprintf("requests_in_%dms_to_%dms", i*100, (i+1)*100) }

func (c *counters) add(name string) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.values[name]++
}

// served counts an answer.
func (c *counters) served(status int, took time.Duration) {
	name := fmt.Sprint(status)
	switch {
	case status < 400:
		name = "200"
	case status != 400 && status != 403 && status != 500 && status != 503:
		name = fmt.Sprintf("%dxx", status/100)
	}
	c.add("requests")
	c.add(bucket(min(buckets, int(took/(100*time.Millisecond)))))
	c.add("requests_status_code." + name)
}

// lines are all figures in the plaintext protocol.
func (c *counters) lines(prefix string, now int64) []byte {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	var out bytes.Buffer
	for name, value := range c.values {
		fmt.Fprintf(&out, "%s.%s %d %d\n", prefix, name, value, now)
	}
	return out.Bytes()
}

// send sends all figures to carbon at each interval, by a connection of its own each time.
func (c *counters) send(g Graphite) {
	host, _ := os.Hostname()
	prefix := strings.NewReplacer("{prefix}", g.Prefix, "{fqdn}", strings.ReplaceAll(host, ".", "_")).Replace(g.Pattern)
	for now := range time.Tick(g.Interval) {
		connection, err := net.DialTimeout("tcp", g.Host, time.Second)
		if err == nil {
			_, err = connection.Write(c.lines(prefix, now.Unix()))
			connection.Close()
		}
		if err != nil {
			log.Printf("cannot send own figures: %v", err)
		}
	}
}

// recorder remembers the status that was answered.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// counting counts what a handler answers.
func (c *counters) counting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		out := &recorder{w, http.StatusOK}
		next.ServeHTTP(out, r)
		c.served(out.status, time.Since(begin))
	})
}
