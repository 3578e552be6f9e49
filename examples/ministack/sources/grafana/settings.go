package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"gopkg.in/ini.v1"
)

// settings are those of the real program's that the miniature knows. Others
// are read over in silence, so that one file serves both programs.
type settings struct {
	protocol, address, port, socket string
	certificate, key                string
	static                          string // folder of the page, served under /public
	data, provisioning              string
	adminUser, adminPassword        string
	cookieSecure, cookieStrict      bool
}

// readSettings reads HOME/conf/defaults.ini and then the given file over it.
// Relative paths are meant from the home folder.
func readSettings(home, file string) (*settings, error) {
	if home == "" {
		return nil, errors.New("cannot start: give the home folder with --homepath DIR")
	}
	home, err := filepath.Abs(home)
	if err != nil {
		return nil, fmt.Errorf("cannot find the home folder: %w", err)
	}
	sources := []any{}
	if file != "" {
		sources = append(sources, file)
	}
	defaults := filepath.Join(home, "conf", "defaults.ini")
	read, err := ini.Load(defaults, sources...)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration %s: %w", strings.TrimSpace(file+" over "+defaults), err)
	}
	r := reader{file: read, home: home}
	s := &settings{
		protocol:      r.text("server", "protocol"),
		address:       r.text("server", "http_addr"),
		port:          r.text("server", "http_port"),
		socket:        r.path("server", "socket"),
		certificate:   r.path("server", "cert_file"),
		key:           r.path("server", "cert_key"),
		static:        r.path("server", "static_root_path"),
		data:          r.path("paths", "data"),
		provisioning:  r.path("paths", "provisioning"),
		adminUser:     r.text("security", "admin_user"),
		adminPassword: r.text("security", "admin_password"),
		cookieSecure:  r.text("security", "cookie_secure") == "true",
		cookieStrict:  r.text("security", "cookie_samesite") == "strict",
	}
	switch s.protocol {
	case "http", "https", "socket":
	default:
		r.problems = append(r.problems, fmt.Errorf("[server] protocol: %q is not http, https or socket", s.protocol))
	}
	if _, err := os.Stat(filepath.Join(s.static, "views", "index.html")); err != nil {
		r.problems = append(r.problems, fmt.Errorf("[server] static_root_path: %w", err))
	}
	if err := errors.Join(r.problems...); err != nil {
		return nil, fmt.Errorf("cannot use the configuration %s: %w", file, err)
	}
	return s, nil
}

type reader struct {
	file     *ini.File
	home     string
	problems []error
}

// reference is a value that stands elsewhere: $__file{/path} or $__env{NAME}.
var reference = regexp.MustCompile(`\$__(file|env)\{([^}]*)\}`)

func (r *reader) text(section, key string) string {
	value := r.file.Section(section).Key(key).String()
	return reference.ReplaceAllStringFunc(value, func(whole string) string {
		parts := reference.FindStringSubmatch(whole)
		if parts[1] == "env" {
			return os.Getenv(parts[2])
		}
		content, err := os.ReadFile(parts[2])
		if err != nil {
			r.problems = append(r.problems, fmt.Errorf("[%s] %s: %w", section, key, err))
		}
		return strings.TrimSpace(string(content))
	})
}

func (r *reader) path(section, key string) string {
	value := r.text(section, key)
	if value == "" || filepath.IsAbs(value) {
		return value
	}
	return filepath.Join(r.home, value)
}
