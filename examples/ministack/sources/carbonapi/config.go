package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Config holds those keys of carbonapi.yaml that the miniature knows. The real
// file has many more; they are read over in silence, so that one file serves
// both programs.
type Config struct {
	Listeners []struct {
		Address string `yaml:"address"`
	} `yaml:"listeners"`
	Graphite  Graphite `yaml:"graphite"`
	Upstreams struct {
		BackendsV2 struct {
			Backends []struct {
				Servers []string `yaml:"servers"`
			} `yaml:"backends"`
		} `yaml:"backendsv2"`
	} `yaml:"upstreams"`
}

// Graphite is where the program's own figures go, under which names; without a host they go nowhere.
type Graphite struct {
	Host     string        `yaml:"host"`
	Interval time.Duration `yaml:"interval"`
	Prefix   string        `yaml:"prefix"`
	Pattern  string        `yaml:"pattern"`
}

// readConfig reads and checks the file.
func readConfig(path string) (*Config, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	c := &Config{Graphite: Graphite{Interval: time.Minute, Prefix: "carbon.api", Pattern: "{prefix}.{fqdn}"}}
	if err := yaml.Unmarshal(content, c); err != nil {
		return nil, fmt.Errorf("cannot read the configuration %s: %w", path, err)
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("cannot use the configuration %s: %w", path, err)
	}
	return c, nil
}

func (c *Config) check() error {
	var problems []error
	if len(c.Listeners) == 0 {
		problems = append(problems, errors.New("no listeners"))
	}
	for _, address := range c.addresses() {
		if _, err := net.ResolveTCPAddr("tcp", address); err != nil {
			problems = append(problems, fmt.Errorf("listeners: %w", err))
		}
	}
	if c.Graphite.Interval < time.Second {
		problems = append(problems, errors.New("graphite.interval is below one second"))
	}
	if len(c.servers()) == 0 {
		problems = append(problems, errors.New("upstreams.backendsv2.backends name no servers"))
	}
	for _, server := range c.servers() {
		if u, err := url.Parse(server); err != nil || u.Scheme != "http" || u.Host == "" {
			problems = append(problems, fmt.Errorf("upstreams: %q is not an address such as http://127.0.0.1:8080", server))
		}
	}
	return errors.Join(problems...)
}

func (c *Config) addresses() []string {
	var all []string
	for _, l := range c.Listeners {
		all = append(all, l.Address)
	}
	return all
}

// servers are all backends' servers. Groups and their strategies mean nothing here: every server is asked.
func (c *Config) servers() []string {
	var all []string
	for _, backend := range c.Upstreams.BackendsV2.Backends {
		for _, server := range backend.Servers {
			all = append(all, strings.TrimSuffix(server, "/"))
		}
	}
	return all
}
