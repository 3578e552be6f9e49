// A carbonapi in miniature: it answers /render and /metrics/find as JSON from
// what carbonserver holds, and knows a handful of Graphite's functions. It is
// not the real carbonapi (github.com/go-graphite/carbonapi), nor derived from
// it; it reads the same configuration file, so that dkumonitor's builder and
// launcher can be tried with it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// BuildVersion is set by the build, under the real program's name for it.
var BuildVersion = "unknown"

// stopLimit is the time that running requests have when the program is asked to stop.
const stopLimit = 5 * time.Second

func main() {
	path := flag.String("config", "", "configuration file (YAML)")
	check := flag.Bool("check-config", false, "check the configuration and leave")
	// The real program refuses unknown keys by it. Nearly all are unknown to the miniature.
	_ = flag.Bool("exact-config", false, "taken and passed over")
	version := flag.Bool("version", false, "print the version and leave")
	flag.Parse()
	log.SetOutput(os.Stdout)

	if *version {
		fmt.Println(BuildVersion)
		return
	}
	if err := run(*path, *check); err != nil {
		log.Print(err)
		os.Exit(1)
	}
}

func run(path string, check bool) error {
	if path == "" {
		return errors.New("cannot start: no configuration; give one with -config FILE")
	}
	c, err := readConfig(path)
	if err != nil || check {
		return err
	}
	stopped, forget := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer forget()

	counters := newCounters()
	if c.Graphite.Host != "" {
		go counters.send(c.Graphite)
	}
	server := http.Server{
		Handler:     newAPI(c.servers(), counters, time.Now),
		ReadTimeout: time.Minute, WriteTimeout: 2 * time.Minute,
	}
	failed := make(chan error, len(c.Listeners))
	for _, address := range c.addresses() {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("cannot listen: %w", err)
		}
		log.Printf("carbonapi (miniature) %s: listening on %s, asking %v", BuildVersion, l.Addr(), c.servers())
		go func() { failed <- server.Serve(l) }()
	}
	select {
	case err := <-failed:
		return fmt.Errorf("cannot go on listening: %w", err)
	case <-stopped.Done():
	}
	log.Print("stopping")
	limit, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	if err := server.Shutdown(limit); err != nil {
		return fmt.Errorf("cannot end the running requests within %s: %w", stopLimit, err)
	}
	return nil
}
