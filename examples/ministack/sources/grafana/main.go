// A Grafana in miniature: a server with one page that draws metrics from a
// provisioned Graphite data source. It is not the real Grafana
// (github.com/grafana/grafana), nor derived from it; it takes the same command
// line, ini file and provisioning files, so that dkumonitor's builder and
// launcher can be tried with it.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// Set by the build, under the real program's names for them.
var (
	version = "unknown"
	commit  = "unknown"
)

// stopLimit is the time that running requests have when the program is asked to stop.
const stopLimit = 5 * time.Second

const usage = `Usage:
  grafana server --homepath DIR --config FILE
  grafana cli --homepath DIR --config FILE admin reset-admin-password (PASSWORD | --password-from-stdin)
  grafana -v
This is Grafana in miniature; it is not the real one.
`

func main() {
	log.SetOutput(os.Stdout)
	if err := run(os.Args[1:], os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string, input io.Reader) error {
	if len(arguments) == 0 {
		return errors.New("cannot start: no command\n" + usage)
	}
	flags := flag.NewFlagSet(arguments[0], flag.ContinueOnError)
	home := flags.String("homepath", "", "folder with conf/ and public/")
	config := flags.String("config", "", "configuration file (ini)")
	flags.String("pidfile", "", "taken for the real program's sake, not used")
	flags.String("packaging", "", "taken for the real program's sake, not used")
	switch arguments[0] {
	case "-v", "--version":
		fmt.Println("grafana version " + version)
		return nil
	case "server", "cli":
		if err := flags.Parse(arguments[1:]); err != nil {
			return err
		}
		s, err := readSettings(*home, *config)
		if err != nil {
			return err
		}
		if arguments[0] == "server" {
			return serve(s)
		}
		return command(s, flags.Args(), input)
	case "-h", "--help", "help":
		fmt.Print(usage)
		return nil
	}
	return fmt.Errorf("cannot run %q: no such command\n%s", arguments[0], usage)
}

// command is `grafana cli`, of which the miniature has one command.
func command(s *settings, words []string, input io.Reader) error {
	if len(words) != 3 || words[0] != "admin" || words[1] != "reset-admin-password" {
		return errors.New("cannot run this command\n" + usage)
	}
	password := words[2]
	if password == "--password-from-stdin" {
		content, err := io.ReadAll(io.LimitReader(input, 4096))
		if err != nil {
			return fmt.Errorf("cannot read the password: %w", err)
		}
		password = strings.TrimRight(string(content), "\r\n")
	}
	if err := setAdmin(s, password); err != nil {
		return err
	}
	fmt.Println("Admin password changed successfully ✔")
	return nil
}

func serve(s *settings) error {
	ctx, forget := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer forget()
	signal.Ignore(syscall.SIGHUP) // the real one opens its logs anew; here there are none

	found, err := readProvisioning(s.provisioning)
	if err != nil {
		return err
	}
	admin, err := openAdmin(s)
	if err != nil {
		return err
	}
	l, err := listen(s)
	if err != nil {
		return err
	}
	server := http.Server{Handler: newSite(s, found, admin), ReadTimeout: time.Minute, WriteTimeout: 2 * time.Minute}
	log.Printf("grafana (miniature) %s: listening on %s://%s, %d data sources, %d dashboards",
		version, s.protocol, l.Addr(), len(found.sources), len(found.dashboards))
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("cannot go on listening: %w", err)
	case <-ctx.Done():
	}
	log.Print("stopping")
	limit, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	if err := server.Shutdown(limit); err != nil {
		return fmt.Errorf("cannot end the running requests within %s: %w", stopLimit, err)
	}
	return nil
}

func listen(s *settings) (net.Listener, error) {
	if s.protocol == "socket" {
		// What an earlier run left behind would be in the way; a socket that somebody listens on is not touched.
		if conn, err := net.Dial("unix", s.socket); err == nil {
			conn.Close()
			return nil, fmt.Errorf("cannot listen on %s: another program does", s.socket)
		}
		_ = os.Remove(s.socket)
		return net.Listen("unix", s.socket)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(s.address, s.port))
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	if s.protocol == "https" {
		pair, err := tls.LoadX509KeyPair(s.certificate, s.key)
		if err != nil {
			return nil, fmt.Errorf("cannot use the certificate: %w", err)
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	}
	return l, nil
}
