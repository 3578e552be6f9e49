package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// write makes a file below a folder whose name has a space, as users' folders have.
func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a folder", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func everything(step int64, points int) schemas {
	rules, _ := readSchemas("testdata/all.conf")
	rules[0].keep = retention{step, points}
	return rules
}

func TestConfigReadsOverTheRealProgramsOptions(t *testing.T) {
	path := write(t, "go-carbon.conf", `
[common]
user = ""
graph-prefix = "carbon.agents.{host}"
metric-interval = "1m0s"
[whisper]
data-dir = "/d"
schemas-file = "/s"
workers = 4
[tcp]
listen = "127.0.0.1:0"
buffer-size = 0
[udp]
enabled = false
[pickle]
enabled = false
[carbonserver]
listen = "127.0.0.1:0"
enabled = true
stats-percentiles = [99, 50]
[[logging]]
file = "stdout"
[dump]
enabled = true
`)
	c, err := readConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.TCP.Listen != "127.0.0.1:0" || !c.TCP.Enabled || c.UDP.Enabled || !c.Dump.Enabled || c.Common.MetricInterval != time.Minute {
		t.Errorf("%+v", c)
	}
}

func TestConfigNamesEveryProblem(t *testing.T) {
	_, err := readConfig(write(t, "go-carbon.conf", "[tcp]\nlisten = \"nowhere\"\n"))
	for _, word := range []string{"data-dir", "schemas-file", "[tcp] listen"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q is not in: %v", word, err)
		}
	}
}

func TestSchemasTheFirstMatchCounts(t *testing.T) {
	rules, err := readSchemas(write(t, "schemas.conf",
		"# ours\n[carbon]\npattern = ^carbon\\.\nretentions = 60:1440\n\n[default]\npattern = .*\nretentions = 10s:6h,60s:30d\npriority = 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	if keep, _ := rules.find("carbon.a"); keep != (retention{60, 1440}) {
		t.Errorf("carbon: %+v", keep)
	}
	if keep, _ := rules.find("x"); keep != (retention{10, 2160}) {
		t.Errorf("default: %+v", keep)
	}
	for _, bad := range []string{"", "pattern = x\n", "[a]\npattern = (\n", "[a]\npattern = a\nretentions = 60s\n", "[a]\npattern = a\n"} {
		if _, err := readSchemas(write(t, "schemas.conf", bad)); err == nil {
			t.Errorf("taken: %q", bad)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"load", "load", true}, {"load", "loads", false}, {"*", "x", true}, {"l?ad", "load", true}, {"l?ad", "lad", false},
		{"cpu-[0-3]", "cpu-2", true}, {"cpu-[0-3]", "cpu-4", false}, {"[!a]b", "ab", false}, {"{short,mid}term", "midterm", true},
		{"{short,mid*}", "midterm", true}, {"{short,mid}", "long", false}, {"a+b", "a+b", true}, {"a+b", "aab", false},
	} {
		test, err := compileGlob(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if test(c.name) != c.want {
			t.Errorf("%q against %q is not %v", c.pattern, c.name, c.want)
		}
	}
	for _, bad := range []string{"{a", "a}", "[a"} {
		if _, err := compileGlob(bad); err == nil {
			t.Errorf("taken: %q", bad)
		}
	}
}

func TestListsWithDotsAreWrittenOut(t *testing.T) {
	for query, want := range map[string]string{
		"a.b": "a.b", "a.{b,c}.d": "a.{b,c}.d", "a.{*,*.*}.d": "a.*.d a.*.*.d", "{a,b.c}.{d,e.f}": "a.d a.e.f b.c.d b.c.e.f",
		"{a,b}.{c,d.e}": "{a,b}.c {a,b}.d.e", "a.{b": "a.{b",
	} {
		if got := strings.Join(alternatives(query), " "); got != want {
			t.Errorf("%q: got %q, want %q", query, got, want)
		}
	}
	store, err := openStore(t.TempDir(), everything(1, 10))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.x.d", "a.y.z.d", "a.d"} {
		if err := store.Add(name, 5, 1); err != nil {
			t.Fatal(err)
		}
	}
	found, err := store.Find("a.{*,*.*}.d")
	if err != nil || len(found) != 2 || found[0].path != "a.x.d" || found[1].path != "a.y.z.d" {
		t.Errorf("%v %v", found, err)
	}
}

func TestParseLine(t *testing.T) {
	name, at, value, err := parseLine("a.b 1.5 1700000000.9", 7)
	if name != "a.b" || at != 1700000000 || value != 1.5 || err != nil {
		t.Error(name, at, value, err)
	}
	if _, at, _, err := parseLine("a 1 -1", 7); at != 7 || err != nil {
		t.Error(at, err)
	}
	for _, bad := range []string{"a 1", "a x 1", "a NaN 1", "a 1 -2", "a 1 NaN", "a 1 1 1"} {
		if _, _, _, err := parseLine(bad, 7); err == nil {
			t.Errorf("taken: %q", bad)
		}
	}
}

func TestStoreOutlivesARestartAndATornLine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "with space")
	s, err := openStore(dir, everything(10, 100))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []point{{1005, 1}, {1020, 2}, {1001, 3}} { // 1001 falls on 1005's place
		if err := s.Add("a.b", p.time, p.value); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(true); err != nil {
		t.Fatal(err)
	}
	path := s.path("a.b")
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(file, "1030 4")
	file.Close()

	s, err = openStore(dir, everything(10, 100))
	if err != nil {
		t.Fatal(err)
	}
	w, _ := s.Read("a.b", 990, 1030, 1030)
	if w.start != 1000 || w.stop != 1040 || *w.values[0] != 3 || w.values[1] != nil || *w.values[2] != 2 || w.values[3] != nil {
		t.Errorf("%+v", w)
	}
	if content, _ := os.ReadFile(path); string(content) != "1000 3\n1020 2\n" {
		t.Errorf("the torn line was not mended: %q", content)
	}
}

func TestStoreRefusesNamesThatAreNoPaths(t *testing.T) {
	s, err := openStore(t.TempDir(), everything(1, 10))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", ".", "a..b", "a/b", "a.", "../x", strings.Repeat("n", 201)} {
		if err := s.Add(bad, 1, 1); err == nil {
			t.Errorf("taken: %q", bad)
		}
	}
}

// What was sent before the stop is stored, though the receivers were far behind.
func TestStopReadsOutTheSockets(t *testing.T) {
	s, err := openStore(t.TempDir(), everything(1, 100_000))
	if err != nil {
		t.Fatal(err)
	}
	c := &Config{}
	c.TCP = Listener{Listen: "127.0.0.1:0", Enabled: true}
	c.UDP = Listener{Listen: "127.0.0.1:0", Enabled: true}
	r, err := listen(c, s)
	if err != nil {
		t.Fatal(err)
	}
	const connections, each = 5, 10_000
	for n := range connections {
		conn, err := net.Dial("tcp", r.tcp.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for i := range each {
			fmt.Fprintf(&text, "drain.tcp%d %d %d\n", n, i, 1_000_000+i)
		}
		if _, err := io.WriteString(conn, text.String()); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	udp, err := net.Dial("udp", r.udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(udp, "drain.udp 1 1000000\n")
	r.Stop()
	if got := r.tcpCount.received.Load(); got != connections*each {
		t.Errorf("%d of %d points came through", got, connections*each)
	}
	if got := r.udpCount.received.Load(); got != 1 {
		t.Errorf("%d datagrams came through", got)
	}
	if _, err := net.Dial("tcp", r.tcp.Addr().String()); err == nil {
		t.Error("it still listens")
	}
}

func TestQueries(t *testing.T) {
	s, err := openStore(t.TempDir(), everything(10, 100))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	for _, name := range []string{"h.load.short", "h.load.mid", "h.mem"} {
		if err := s.Add(name, now, 2.5); err != nil {
			t.Fatal(err)
		}
	}
	server := &Server{store: s}
	var found findAnswer
	get(t, server.find, "/metrics/find/?query=h.*&format=json", 200, &found)
	if got := fmt.Sprint(found); got != "{[{h.* [{h.load false} {h.mem true}]}]}" {
		t.Error(got)
	}
	var read renderAnswer
	get(t, server.render, fmt.Sprintf("/render/?target=h.load.{short,mid}&from=%d&until=%d&format=json", now-100, now), 200, &read)
	if len(read.Metrics) != 2 || len(read.Metrics[0].Values) != 10 {
		t.Fatalf("%+v", read)
	}
	last := len(read.Metrics[0].Values) - 1
	if m := read.Metrics[0]; m.Name != "h.load.mid" || m.Values[last] != 2.5 || m.IsAbsent[last] || !m.IsAbsent[0] {
		t.Errorf("%+v", m)
	}
	get(t, server.render, "/render/?target=x&from=1&until=2&format=pickle", 400, nil)
	get(t, server.render, "/render/?target={x&from=1&until=2", 400, nil)
	get(t, server.find, "/metrics/find/", 400, nil)
}

func get(t *testing.T, handler http.HandlerFunc, url string, status int, into any) {
	t.Helper()
	w := httptest.NewRecorder()
	handler(w, httptest.NewRequest("GET", url, nil))
	if w.Code != status {
		t.Fatalf("%s answered %d: %s", url, w.Code, w.Body)
	}
	if into != nil {
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatal(err)
		}
	}
}
