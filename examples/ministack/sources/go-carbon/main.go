// A go-carbon in miniature: it takes points by the plaintext protocol, keeps
// them in text files, and answers carbonserver's queries as JSON. It is not
// the real go-carbon (github.com/go-graphite/go-carbon), nor derived from it;
// it reads the same configuration file and obeys the same signals, so that
// dkumonitor's builder and launcher can be tried with it.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// BuildVersion is set by the build, under the real program's name for it.
var BuildVersion = "unknown"

// flushEvery bounds what a kill can lose.
const flushEvery = time.Second

func main() {
	path := flag.String("config", "", "configuration file (TOML)")
	check := flag.Bool("check-config", false, "check the configuration and leave")
	daemon := flag.Bool("daemon", false, "run in the background (not in the miniature)")
	flag.String("pidfile", "", "taken for the real program's sake; only its background mode uses it")
	version := flag.Bool("version", false, "print the version and leave")
	flag.Parse()
	log.SetOutput(os.Stdout)

	if *version {
		fmt.Println(BuildVersion)
		return
	}
	if err := run(*path, *check, *daemon); err != nil {
		log.Print(err)
		os.Exit(1)
	}
}

func run(path string, check, daemon bool) error {
	if path == "" {
		return fmt.Errorf("cannot start: no configuration; give one with -config FILE")
	}
	c, err := readConfig(path)
	if err != nil {
		return err
	}
	rules, err := readSchemas(c.Whisper.SchemasFile)
	if err != nil || check {
		return err
	}
	if daemon {
		return fmt.Errorf("cannot run in the background: start the miniature with -daemon=false")
	}
	// SIGTERM and SIGINT end the process at once, as they end the real one.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGUSR2, syscall.SIGHUP)

	store, err := openStore(c.Whisper.DataDir, rules)
	if err != nil {
		return err
	}
	log.Printf("go-carbon (miniature) %s: %d metrics read from %s", BuildVersion, store.figures().metrics, c.Whisper.DataDir)
	receivers, err := listen(c, store)
	if err != nil {
		return err
	}
	server := &Server{}
	if c.Carbonserver.Enabled {
		if server, err = serve(c.Carbonserver.Listen, store); err != nil {
			return err
		}
	}

	flush := time.NewTicker(flushEvery)
	own := time.NewTicker(c.Common.MetricInterval)
	figures := newAgent(c.prefix(), store, receivers, server)
	for {
		select {
		case <-flush.C:
			_ = store.Flush(false) // says itself what it cannot do, and tries again
		case <-own.C:
			figures.send(time.Now().Unix())
		case s := <-signals:
			if s == syscall.SIGUSR2 {
				return stop(c, store, receivers, server)
			}
			if renewed, err := reload(path, store); err != nil {
				log.Printf("the configuration stays as it was: %v", err)
			} else {
				c = renewed
			}
		}
	}
}

// reload rereads the configuration and the schemas. The listeners stay.
func reload(path string, store *Store) (*Config, error) {
	c, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	rules, err := readSchemas(c.Whisper.SchemasFile)
	if err != nil {
		return nil, err
	}
	store.setRules(rules)
	log.Print("configuration and schemas read again")
	return c, nil
}

// stop reads out the sockets and writes everything down. Without [dump]
// enabled nothing is flushed, as in the real program.
func stop(c *Config, store *Store, receivers *Receivers, server *Server) error {
	log.Print("stopping")
	receivers.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = server.http.Shutdown(ctx)
	if !c.Dump.Enabled {
		log.Print("stopped without a dump: [dump] is not enabled")
		return nil
	}
	if err := store.Flush(true); err != nil {
		return fmt.Errorf("cannot dump: %w", err)
	}
	f := store.figures()
	log.Printf("stopped: %d points of %d metrics written in this run", f.written, f.metrics)
	return nil
}
