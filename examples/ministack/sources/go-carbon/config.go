package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Config holds those options of go-carbon.conf that the miniature knows. The
// real file has many more; they are read over in silence, so that one file
// serves both programs.
type Config struct {
	Common struct {
		GraphPrefix    string        `toml:"graph-prefix"`
		MetricInterval time.Duration `toml:"metric-interval"`
	} `toml:"common"`
	Whisper struct {
		DataDir     string `toml:"data-dir"`
		SchemasFile string `toml:"schemas-file"`
	} `toml:"whisper"`
	UDP          Listener `toml:"udp"`
	TCP          Listener `toml:"tcp"`
	Carbonserver Listener `toml:"carbonserver"`
	Dump         struct {
		Enabled bool `toml:"enabled"`
	} `toml:"dump"`
}

// Listener is one address to listen on, and whether to do so.
type Listener struct {
	Listen  string `toml:"listen"`
	Enabled bool   `toml:"enabled"`
}

// readConfig reads and checks the file. What it does not name has the real
// program's default.
func readConfig(path string) (*Config, error) {
	c := &Config{}
	c.Common.GraphPrefix = "carbon.agents.{host}"
	c.Common.MetricInterval = time.Minute
	c.UDP = Listener{Listen: ":2003", Enabled: true}
	c.TCP = Listener{Listen: ":2003", Enabled: true}
	c.Carbonserver = Listener{Listen: "127.0.0.1:8080", Enabled: false}
	if _, err := toml.DecodeFile(path, c); err != nil {
		return nil, fmt.Errorf("cannot read the configuration %s: %w", path, err)
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("cannot use the configuration %s: %w", path, err)
	}
	return c, nil
}

func (c *Config) check() error {
	var problems []error
	if c.Whisper.DataDir == "" {
		problems = append(problems, errors.New("[whisper] data-dir is not set"))
	}
	if c.Whisper.SchemasFile == "" {
		problems = append(problems, errors.New("[whisper] schemas-file is not set"))
	}
	if c.Common.MetricInterval < time.Second {
		problems = append(problems, errors.New("[common] metric-interval is below one second"))
	}
	for section, l := range map[string]Listener{"udp": c.UDP, "tcp": c.TCP, "carbonserver": c.Carbonserver} {
		if !l.Enabled {
			continue
		}
		if _, err := net.ResolveTCPAddr("tcp", l.Listen); err != nil {
			problems = append(problems, fmt.Errorf("[%s] listen: %w", section, err))
		}
	}
	return errors.Join(problems...)
}

// prefix is the path under which the program's own figures are kept. Dots in
// the host's name become underscores, as it is one node of that path.
func (c *Config) prefix() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	host = strings.ReplaceAll(host, ".", "_")
	return strings.TrimSuffix(strings.ReplaceAll(c.Common.GraphPrefix, "{host}", host), ".")
}
