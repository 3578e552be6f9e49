package main

import (
	"encoding/json"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httputil"
	"path/filepath"
	"strconv"
	"time"
)

const (
	cookieName = "grafana_session"
	// mostBody bounds what a request may send.
	mostBody = 1 << 20
)

// site answers over HTTP: under the real program's paths, what the launcher,
// the page and a curious person need of them.
type site struct {
	settings *settings
	found    provisioned
	admin    *admin
}

func newSite(s *settings, found provisioned, admin *admin) http.Handler {
	t := &site{s, found, admin}
	open := http.NewServeMux()
	open.HandleFunc("GET /api/health", t.health)
	open.HandleFunc("POST /login", t.login)
	open.HandleFunc("/logout", t.logout)
	open.HandleFunc("GET /{$}", t.page)
	open.HandleFunc("GET /login", t.page)
	files := http.FileServer(filesOnly{http.Dir(s.static)})
	open.Handle("GET /public/", http.StripPrefix("/public", files))

	closed := http.NewServeMux()
	closed.HandleFunc("GET /api/user", t.user)
	closed.HandleFunc("GET /api/datasources", t.sources)
	closed.HandleFunc("GET /api/search", t.search)
	closed.HandleFunc("GET /api/dashboards/uid/{uid}", t.dashboard)
	for _, method := range []string{"GET", "POST"} {
		closed.HandleFunc(method+" /api/datasources/proxy/uid/{uid}/{path...}", t.proxy)
		closed.HandleFunc(method+" /api/datasources/proxy/{id}/{path...}", t.proxy)
	}
	open.Handle("/api/", t.guard(closed))

	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		r.Body = http.MaxBytesReader(w, r.Body, mostBody)
		open.ServeHTTP(w, r)
	})
}

// filesOnly gives no listings of folders.
type filesOnly struct{ http.FileSystem }

func (f filesOnly) Open(name string) (http.File, error) {
	file, err := f.FileSystem.Open(name)
	if err != nil {
		return nil, err
	}
	status, err := file.Stat()
	if err != nil || status.IsDir() {
		file.Close()
		return nil, fs.ErrNotExist
	}
	return file, nil
}

// page answers / and /login with the one page, and sends who is at the wrong one to the other.
func (t *site) page(w http.ResponseWriter, r *http.Request) {
	inside := t.allowed(r)
	if inside != (r.URL.Path == "/") {
		http.Redirect(w, r, map[bool]string{true: "/", false: "/login"}[inside], http.StatusFound)
		return
	}
	http.ServeFile(w, r, filepath.Join(t.settings.static, "views", "index.html"))
}

func (t *site) health(w http.ResponseWriter, _ *http.Request) {
	status, database := http.StatusOK, "ok"
	if err := t.admin.refresh(); err != nil {
		log.Print(err)
		status, database = http.StatusServiceUnavailable, "failing"
	}
	respond(w, status, map[string]string{"database": database, "version": version, "commit": commit})
}

func (t *site) login(w http.ResponseWriter, r *http.Request) {
	var given struct{ User, Password string }
	body, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(body, &given) != nil {
		complain(w, http.StatusBadRequest, "bad login data: a JSON object with user and password is needed")
		return
	}
	if !t.admin.check(given.User, given.Password) {
		log.Printf("refused a login from %s", r.RemoteAddr)
		complain(w, http.StatusUnauthorized, "Invalid username or password")
		return
	}
	http.SetCookie(w, t.cookie(t.admin.login(time.Now()), int(sessionLife/time.Second)))
	respond(w, http.StatusOK, map[string]string{"message": "Logged in", "redirectUrl": "/"})
}

func (t *site) logout(w http.ResponseWriter, r *http.Request) {
	if cookie, err := r.Cookie(cookieName); err == nil {
		t.admin.logout(cookie.Value)
	}
	http.SetCookie(w, t.cookie("", -1))
	http.Redirect(w, r, "/login", http.StatusFound)
}

func (t *site) cookie(value string, age int) *http.Cookie {
	site := http.SameSiteLaxMode
	if t.settings.cookieStrict {
		site = http.SameSiteStrictMode
	}
	return &http.Cookie{
		Name: cookieName, Value: value, Path: "/", MaxAge: age, HttpOnly: true,
		SameSite: site, Secure: t.settings.cookieSecure || t.settings.protocol == "https",
	}
}

// guard lets in who has a session or says name and password with the request.
func (t *site) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if t.allowed(r) {
			next.ServeHTTP(w, r)
			return
		}
		complain(w, http.StatusUnauthorized, "Unauthorized")
	})
}

func (t *site) allowed(r *http.Request) bool {
	if cookie, err := r.Cookie(cookieName); err == nil && t.admin.known(cookie.Value, time.Now()) {
		return true
	}
	name, password, basic := r.BasicAuth()
	return basic && t.admin.check(name, password)
}

func (t *site) user(w http.ResponseWriter, _ *http.Request) {
	respond(w, http.StatusOK, map[string]any{"id": 1, "login": t.settings.adminUser, "isGrafanaAdmin": true})
}

func (t *site) sources(w http.ResponseWriter, _ *http.Request) {
	respond(w, http.StatusOK, append([]dataSource{}, t.found.sources...))
}

func (t *site) search(w http.ResponseWriter, _ *http.Request) {
	list := []map[string]string{}
	for _, d := range t.found.dashboards {
		list = append(list, map[string]string{"uid": d.UID, "title": d.Title, "type": "dash-db"})
	}
	respond(w, http.StatusOK, list)
}

func (t *site) dashboard(w http.ResponseWriter, r *http.Request) {
	for _, d := range t.found.dashboards {
		if d.UID == r.PathValue("uid") {
			respond(w, http.StatusOK, map[string]any{"dashboard": d.content, "meta": map[string]bool{"provisioned": true}})
			return
		}
	}
	complain(w, http.StatusNotFound, "Dashboard not found")
}

// proxy passes a request on to a data source, without the credentials that were for this server.
func (t *site) proxy(w http.ResponseWriter, r *http.Request) {
	var source *dataSource
	for i, s := range t.found.sources {
		if uid := r.PathValue("uid"); uid != "" && s.UID == uid || r.PathValue("id") == strconv.Itoa(s.ID) {
			source = &t.found.sources[i]
		}
	}
	if source == nil {
		complain(w, http.StatusNotFound, "Data source not found")
		return
	}
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Path, p.Out.URL.RawPath = "/"+p.In.PathValue("path"), ""
			p.SetURL(source.target)
			p.Out.Header.Del("Cookie")
			p.Out.Header.Del("Authorization")
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			log.Printf("cannot ask the data source %s: %v", source.Name, err)
			complain(w, http.StatusBadGateway, "the data source "+source.Name+" does not answer")
		},
	}
	proxy.ServeHTTP(w, r)
}

func complain(w http.ResponseWriter, status int, message string) {
	respond(w, status, map[string]string{"message": message})
}

func respond(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	if err := out.Encode(answer); err != nil {
		log.Printf("cannot answer: %v", err)
	}
}
