package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// install makes a data folder (with a space in its name) that names the given Graphite, and gives its configuration file.
func install(t *testing.T, graphite string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data folder")
	write(t, filepath.Join(dir, "conf/secret"), "geheim!#;%\n")
	write(t, filepath.Join(dir, "conf/grafana.ini"), fmt.Sprintf(`
[server]
http_addr = 127.0.0.1
http_port = 0
static_root_path = %[1]s/static
[paths]
data = %[1]s/storage/grafana
provisioning = %[1]s/conf/provisioning
[security]
admin_user = admin
admin_password = $__file{%[1]s/conf/secret}
[analytics]
reporting_enabled = false
`, dir))
	write(t, filepath.Join(dir, "static/views/index.html"), "<title>the page</title>")
	write(t, filepath.Join(dir, "static/build/app.js"), "draw()")
	write(t, filepath.Join(dir, "conf/provisioning/datasources/a.yaml"),
		"apiVersion: 1\ndatasources:\n  - {name: ours, uid: ours, type: graphite, access: proxy, url: '"+graphite+"/base', isDefault: true, jsonData: {graphiteVersion: '1.1'}}\n")
	write(t, filepath.Join(dir, "conf/provisioning/dashboards/a.yaml"),
		"apiVersion: 1\nproviders:\n  - {name: ours, type: file, options: {path: '"+dir+"/conf/dashboards'}}\n")
	write(t, filepath.Join(dir, "conf/dashboards/machine.json"), `{"uid": "machine", "title": "Machine", "panels": []}`)
	return filepath.Join(dir, "conf/grafana.ini")
}

func open(t *testing.T, config string) (*settings, http.Handler) {
	t.Helper()
	s, err := readSettings(".", config)
	if err != nil {
		t.Fatal(err)
	}
	found, err := readProvisioning(s.provisioning)
	if err != nil {
		t.Fatal(err)
	}
	a, err := openAdmin(s)
	if err != nil {
		t.Fatal(err)
	}
	return s, newSite(s, found, a)
}

func send(handler http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func get(path string) *http.Request { return httptest.NewRequest("GET", path, nil) }

func basic(r *http.Request, password string) *http.Request {
	r.SetBasicAuth("admin", password)
	return r
}

func TestWhatIsOpenAndWhatIsNot(t *testing.T) {
	_, site := open(t, install(t, "http://127.0.0.1:1"))
	for path, want := range map[string]string{
		"/api/health": `"database": "ok"`, "/login": "the page", "/public/build/app.js": "draw()",
	} {
		if w := send(site, get(path)); w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s answered %d: %s", path, w.Code, w.Body)
		}
	}
	for path, want := range map[string]int{
		"/api/user": 401, "/api/datasources": 401, "/api/datasources/proxy/uid/ours/render": 401, "/api/anything": 401,
		"/": 302, "/public/build/": 404, "/public/../conf/secret": 307, "/nothing": 404,
	} {
		if w := send(site, get(path)); w.Code != want {
			t.Errorf("%s answered %d, not %d", path, w.Code, want)
		}
	}
	for path, want := range map[string]string{
		"/": "the page", "/api/user": `"login": "admin"`, "/api/datasources": `"uid": "ours"`, "/api/search": `"title": "Machine"`, "/api/dashboards/uid/machine": `"panels"`,
	} {
		if w := send(site, basic(get(path), "geheim!#;%")); w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s answered %d: %s", path, w.Code, w.Body)
		}
	}
	if w := send(site, basic(get("/api/user"), "wrong")); w.Code != 401 {
		t.Errorf("a wrong password was answered %d", w.Code)
	}
}

func TestSession(t *testing.T) {
	s, site := open(t, install(t, "http://127.0.0.1:1"))
	post := func(password string) *httptest.ResponseRecorder {
		return send(site, httptest.NewRequest("POST", "/login", strings.NewReader(`{"user":"admin","password":"`+password+`"}`)))
	}
	if w := post("wrong"); w.Code != 401 || len(w.Result().Cookies()) != 0 {
		t.Errorf("a wrong password was answered %d", w.Code)
	}
	w := post("geheim!#;%")
	if w.Code != 200 || len(w.Result().Cookies()) != 1 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	cookie := w.Result().Cookies()[0]
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode {
		t.Errorf("%+v", cookie)
	}
	user := func() int {
		r := get("/api/user")
		r.AddCookie(cookie)
		return send(site, r).Code
	}
	if user() != 200 {
		t.Error("the session is not known")
	}
	// A new password, set by another process, ends the sessions.
	if err := command(s, []string{"admin", "reset-admin-password", "--password-from-stdin"}, strings.NewReader("another\n")); err != nil {
		t.Fatal(err)
	}
	if user() != 401 || post("geheim!#;%").Code != 401 || post("another").Code != 200 {
		t.Error("the old password or its session still counts, or the new one does not")
	}
}

func TestProxy(t *testing.T) {
	graphite := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %q %q", r.Method, r.URL, body, r.Header.Get("Authorization"), r.Header.Get("Cookie"))
	}))
	defer graphite.Close()
	_, site := open(t, install(t, graphite.URL))

	r := basic(httptest.NewRequest("POST", "/api/datasources/proxy/uid/ours/render?x=1", strings.NewReader("target=a")), "geheim!#;%")
	r.Header.Set("Cookie", "grafana_session=x")
	if w := send(site, r); w.Body.String() != `POST /base/render?x=1 target=a "" ""` {
		t.Error(w.Body)
	}
	if w := send(site, basic(get("/api/datasources/proxy/1/metrics/find?query=*"), "geheim!#;%")); w.Body.String() != `GET /base/metrics/find?query=*  "" ""` {
		t.Error(w.Body)
	}
	if w := send(site, basic(get("/api/datasources/proxy/2/render"), "geheim!#;%")); w.Code != 404 {
		t.Errorf("an unknown source answered %d", w.Code)
	}
	graphite.Close()
	if w := send(site, basic(get("/api/datasources/proxy/1/render"), "geheim!#;%")); w.Code != 502 {
		t.Errorf("a source that is away answered %d", w.Code)
	}
}

func TestMistakesInTheConfiguration(t *testing.T) {
	config := install(t, "http://127.0.0.1:1")
	content, _ := os.ReadFile(config)
	for change, word := range map[string]string{
		"http_addr = 127.0.0.1|protocol = gopher": "gopher", "/static\n|/nowhere\n": "static_root_path", "conf/secret|conf/no-secret": "admin_password",
	} {
		old, new, _ := strings.Cut(change, "|")
		write(t, config, strings.Replace(string(content), old, new, 1))
		if _, err := readSettings(".", config); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", change, err)
		}
	}
	if _, err := readSettings(".", config+"x"); err == nil {
		t.Error("a missing file was taken")
	}
	dir := t.TempDir()
	for _, bad := range []string{"apiVersion: 2", "apiVersion: 1\ndatasources: [{name: x}]", "a: [", "apiVersion: 1\ndatasources: [{name: x, url: 'http://a'}, {name: x, url: 'http://a'}]"} {
		write(t, filepath.Join(dir, "datasources/a.yaml"), bad)
		if _, err := readProvisioning(dir); err == nil {
			t.Errorf("taken: %s", bad)
		}
	}
}
