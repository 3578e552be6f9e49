package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// carbonserver stands in for the storage: two metrics of step 10 and one of step 20, values 1, 2, 3… from time 1000.
func carbonserver(t *testing.T) *httptest.Server {
	t.Helper()
	metrics := map[string]string{
		"h.load.short": `{"name":"h.load.short","startTime":1000,"stopTime":1040,"stepTime":10,"values":[1,2,0,4],"isAbsent":[false,false,true,false]}`,
		"h.load.mid":   `{"name":"h.load.mid","startTime":1000,"stopTime":1040,"stepTime":10,"values":[10,20,30,5],"isAbsent":[false,false,false,false]}`,
		"h.slow":       `{"name":"h.slow","startTime":1000,"stopTime":1040,"stepTime":20,"values":[100,200],"isAbsent":[false,false]}`,
	}
	queries := map[string][]string{"h.load.*": {"h.load.mid", "h.load.short"}, "nothing.*": {}}
	for name := range metrics {
		queries[name] = []string{name}
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics/find/" {
			fmt.Fprint(w, `{"metrics":[{"name":"h.*","matches":[{"path":"h.load"},{"path":"h.slow","isLeaf":true}]}]}`)
			return
		}
		names, ok := queries[r.URL.Query().Get("target")]
		if !ok {
			http.Error(w, "unexpected "+r.URL.String(), http.StatusInternalServerError)
			return
		}
		var out []string
		for _, name := range names {
			out = append(out, metrics[name])
		}
		fmt.Fprintf(w, `{"metrics":[%s]}`, strings.Join(out, ","))
	}))
	t.Cleanup(server.Close)
	return server
}

func ask(t *testing.T, address string, query url.Values) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	handler := newAPI([]string{address}, newCounters(), func() time.Time { return time.Unix(5000, 0) })
	path := "/render/"
	if query.Has("query") {
		path = "/metrics/find"
	}
	handler.ServeHTTP(w, httptest.NewRequest("GET", path+"?"+query.Encode(), nil))
	return w.Code, w.Body.String()
}

// render gives "name=values" of each line.
func render(t *testing.T, address string, extra url.Values, targets ...string) string {
	t.Helper()
	query := url.Values{"format": {"json"}, "target": targets}
	for k, v := range extra {
		query[k] = v
	}
	code, body := ask(t, address, query)
	if code != 200 {
		t.Fatalf("%q answered %d: %s", targets, code, body)
	}
	var lines []struct {
		Target     string
		Datapoints [][2]*float64
	}
	if err := json.Unmarshal([]byte(body), &lines); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range lines {
		text := l.Target + "="
		for _, p := range l.Datapoints {
			if p[0] == nil {
				text += "-,"
			} else {
				text += fmt.Sprintf("%g,", *p[0])
			}
		}
		out = append(out, strings.TrimSuffix(text, ","))
	}
	return strings.Join(out, " ")
}

func TestFunctions(t *testing.T) {
	server := carbonserver(t)
	for target, want := range map[string]string{
		"h.load.short":                                         "h.load.short=1,2,-,4",
		"h.load.*":                                             "h.load.mid=10,20,30,5 h.load.short=1,2,-,4",
		"nothing.*":                                            "",
		"sumSeries(nothing.*)":                                 "",
		`alias(h.slow, "a name, with (signs)")`:                "a name, with (signs)=100,200",
		"aliasByNode(h.load.*, 0, -1)":                         "h.mid=10,20,30,5 h.short=1,2,-,4",
		"aliasByMetric(h.slow)":                                "slow=100,200",
		`aliasSub(h.slow, "h\.(.*)", "\1!")`:                   "slow!=100,200",
		"sumSeries(h.load.*)":                                  "sumSeries(h.load.*)=11,22,30,9",
		"averageSeries( h.load.mid , h.load.short )":           "averageSeries( h.load.mid , h.load.short )=5.5,11,30,4.5",
		"diffSeries(h.load.mid,h.load.short)":                  "diffSeries(h.load.mid,h.load.short)=9,18,30,1",
		"alias(maxSeries(h.slow,h.load.mid),'m')":              "m=100,200",
		"alias(sum(h.slow,h.load.mid),'m')":                    "m=115,217.5",
		"scale(h.load.short,0.5)":                              "scale(h.load.short,0.5)=0.5,1,-,2",
		"offset(h.load.short,-1)":                              "offset(h.load.short,-1)=0,1,-,3",
		"keepLastValue(h.load.short)":                          "keepLastValue(h.load.short)=1,2,2,4",
		"derivative(h.load.mid)":                               "derivative(h.load.mid)=-,10,10,-25",
		"perSecond(h.load.mid)":                                "perSecond(h.load.mid)=-,1,1,-",
		"nonNegativeDerivative(h.load.short)":                  "nonNegativeDerivative(h.load.short)=-,1,-,-",
		`groupByNode(h.load.*,1,"averageSeries")`:              "load=5.5,11,30,4.5",
		"exclude(h.load.*,'mid$')":                             "h.load.short=1,2,-,4",
		"aliasSub(grep(h.load.*,'mid'),'^.*load\\.','')":       "mid=10,20,30,5",
		"limit(h.load.*,1)":                                    "h.load.mid=10,20,30,5",
		"aliasByNode(scale(perSecond(h.load.mid),10),1)":       "load=-,10,10,-",
		"alias(keepLastValue(sumSeries(h.load.short)),'kept')": "kept=1,2,2,4",
	} {
		if got := render(t, server.URL, nil, target); got != want {
			t.Errorf("%s\n got %q\nwant %q", target, got, want)
		}
	}
	if got := render(t, server.URL, nil, "h.slow", "h.load.short"); got != "h.slow=100,200 h.load.short=1,2,-,4" {
		t.Errorf("two targets: %q", got)
	}
	if got := render(t, server.URL, url.Values{"maxDataPoints": {"2"}}, "h.load.short"); got != "h.load.short=1.5,4" {
		t.Errorf("maxDataPoints: %q", got)
	}
	if got := render(t, server.URL, url.Values{"maxDataPoints": {"2"}}, "alias(consolidateBy(h.load.mid,'last'),'l')"); got != "l=20,5" {
		t.Errorf("maxDataPoints with the last: %q", got)
	}
}

func TestMistakesAreToldAsSuch(t *testing.T) {
	server := carbonserver(t)
	for target, word := range map[string]string{
		"movingWindow(h.slow,5)": `"movingWindow"`, "alias(h.slow)": "name in quotes", "sumSeries(h.slow": "missing",
		"scale(h.slow)": "number", "": "missing", "a b": "left over", `alias(h.slow,"x)`: "no end", "5": "neither",
		strings.Repeat("sum(", 60) + "h": "50 functions",
	} {
		code, body := ask(t, server.URL, url.Values{"format": {"json"}, "target": {target}})
		if code != 400 || !strings.Contains(body, word) {
			t.Errorf("%q answered %d: %s", target, code, body)
		}
	}
	for _, query := range []url.Values{
		{"target": {"h"}}, {"format": {"png"}, "target": {"h"}}, {"format": {"json"}},
		{"format": {"json"}, "target": {"h"}, "from": {"midnight"}}, {"format": {"json"}, "target": {"h"}, "from": {"20"}, "until": {"10"}},
	} {
		if code, body := ask(t, server.URL, query); code != 400 {
			t.Errorf("%v answered %d: %s", query, code, body)
		}
	}
}

func TestAStorageThatIsAwayIsNamed(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	code, body := ask(t, gone.URL, url.Values{"format": {"json"}, "target": {"h"}})
	if code != 503 || !strings.Contains(body, gone.URL) {
		t.Errorf("%d %s", code, body)
	}
}

func TestWhoIsMissingIsSaid(t *testing.T) {
	server, gone := carbonserver(t), httptest.NewServer(nil)
	handler := newAPI([]string{server.URL, gone.URL}, newCounters(), func() time.Time { return time.Unix(5000, 0) })
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w
	}
	gone.Close()
	w := get("/render?format=json&target=h.slow")
	if w.Code != 200 || !strings.Contains(w.Body.String(), "h.slow") || w.Header().Get("X-Carbonapi-Missing-Backends") != gone.URL {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if w := get("/lb_check"); w.Code != 200 {
		t.Errorf("it still serves, and says %d", w.Code)
	}
	if w := get("/lb_check?backends"); w.Code != 503 || !strings.Contains(w.Body.String(), gone.URL) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	handler = newAPI([]string{server.URL}, newCounters(), time.Now)
	if w := get("/lb_check?backends"); w.Code != 200 || w.Header().Get("X-Carbonapi-Missing-Backends") != "" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}

func TestFind(t *testing.T) {
	server := carbonserver(t)
	_, body := ask(t, server.URL, url.Values{"query": {"h.*"}, "format": {"treejson"}})
	want := `[{"allowChildren":1,"context":{},"expandable":1,"id":"h.load","leaf":0,"text":"load"},` +
		`{"allowChildren":0,"context":{},"expandable":0,"id":"h.slow","leaf":1,"text":"slow"}]`
	if strings.TrimSpace(body) != want {
		t.Error(body)
	}
}

func TestExpand(t *testing.T) {
	server := carbonserver(t)
	w := httptest.NewRecorder()
	handler := newAPI([]string{server.URL}, newCounters(), time.Now)
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/metrics/expand?query=h.*", nil))
	if got := strings.TrimSpace(w.Body.String()); got != `{"results":["h.load","h.slow"]}` {
		t.Error(got)
	}
}

func TestOwnFiguresCountWhatWasAnswered(t *testing.T) {
	server := carbonserver(t)
	counters := newCounters()
	handler := newAPI([]string{server.URL}, counters, time.Now)
	for _, path := range []string{"/render?format=json&target=h.slow", "/render?format=json&target=", "/metrics/find?query=h.*"} {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil))
	}
	text := string(counters.lines("p", 7))
	for _, line := range []string{
		"p.requests 3 7\n", "p.render_requests 2 7\n", "p.find_requests 1 7\n", "p.requests_status_code.200 2 7\n",
		"p.requests_status_code.400 1 7\n", "p.zipper.render_requests 1 7\n", "p.zipper.find_errors 0 7\n",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("%q is not in\n%s", line, text)
		}
	}
}

func TestParseTime(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for text, want := range map[string]int64{"now": 1_000_000, "-1h": 996_400, "now-30min": 998_200, "123": 123, "-90s": 999_910, "now+5m": 1_000_300, "-1mon": 1_000_000 - 30*86400} {
		if got, err := parseTime(text, now); got != want || err != nil {
			t.Errorf("%q: %d %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "-", "midnight", "-5", "-1fortnight", "now 1h"} {
		if got, err := parseTime(bad, now); err == nil {
			t.Errorf("taken: %q as %d", bad, got)
		}
	}
}

func TestConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "carbonapi of ours.yaml")
	write := func(text string) error {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := readConfig(path)
		return err
	}
	good := `
listeners:
  - address: "127.0.0.1:8082"
concurency: 1000
cache: {type: "mem"}
upstreams:
  tldCacheDisabled: true
  backendsv2:
    backends:
      - groupName: "carbon"
        protocol: "carbonapi_v3_pb"
        servers: ["http://127.0.0.1:8080/"]
`
	if err := write(good); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"listeners: [", strings.Replace(good, "http://", "", 1), strings.Replace(good, "127.0.0.1:8082", "nowhere", 1), "listeners: []"} {
		if write(bad) == nil {
			t.Errorf("taken: %s", bad)
		}
	}
}
