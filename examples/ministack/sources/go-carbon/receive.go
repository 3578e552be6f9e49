package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// longestLine bounds what one line of a sender may hold in memory.
	longestLine = 8 << 10
	// idleLimit closes a connection on which nothing came for so long.
	idleLimit = 2 * time.Minute
	// drainIdle: when stopping, a socket counts as read out after so long without a byte.
	drainIdle = 200 * time.Millisecond
	// drainLimit bounds the whole reading out, whatever the senders do.
	drainLimit = 10 * time.Second
)

// counters of one receiver.
type counters struct {
	received, errors, active atomic.Int64
}

// Receivers takes points by the plaintext protocol (`name value time`, one a
// line) on TCP and UDP and puts them into the store.
type Receivers struct {
	store *Store

	tcp *net.TCPListener
	udp *net.UDPConn

	tcpCount, udpCount counters

	drain   atomic.Bool
	mutex   sync.Mutex // guards conns
	conns   map[net.Conn]struct{}
	running sync.WaitGroup
}

// listen opens what the configuration enables, and starts to read.
func listen(c *Config, store *Store) (*Receivers, error) {
	r := &Receivers{store: store, conns: map[net.Conn]struct{}{}}
	if c.TCP.Enabled {
		l, err := net.Listen("tcp", c.TCP.Listen)
		if err != nil {
			return nil, fmt.Errorf("cannot listen for TCP: %w", err)
		}
		r.tcp = l.(*net.TCPListener)
		log.Printf("tcp: listening on %s", l.Addr())
		r.running.Go(r.accept)
	}
	if c.UDP.Enabled {
		l, err := net.ListenPacket("udp", c.UDP.Listen)
		if err != nil {
			return nil, fmt.Errorf("cannot listen for UDP: %w", err)
		}
		r.udp = l.(*net.UDPConn)
		// A larger buffer loses less in a burst; the system may give less, and that is no error.
		_ = r.udp.SetReadBuffer(4 << 20)
		log.Printf("udp: listening on %s", l.LocalAddr())
		r.running.Go(r.readUDP)
	}
	return r, nil
}

// Stop reads out what the senders have already sent, then closes everything:
// connections that wait to be accepted are accepted first, and each socket is
// read until nothing came for drainIdle.
func (r *Receivers) Stop() {
	r.drain.Store(true)
	soon := time.Now().Add(drainIdle)
	if r.tcp != nil {
		_ = r.tcp.SetDeadline(soon)
	}
	if r.udp != nil {
		_ = r.udp.SetReadDeadline(soon)
	}
	r.mutex.Lock()
	for conn := range r.conns {
		_ = conn.SetReadDeadline(soon)
	}
	r.mutex.Unlock()

	done := make(chan struct{})
	go func() { r.running.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(drainLimit):
		log.Print("senders go on sending: what they send from now on is not taken")
	}
}

func (r *Receivers) accept() {
	defer r.tcp.Close()
	for {
		conn, err := r.tcp.Accept()
		if err != nil {
			if r.drain.Load() {
				return
			}
			// Out of descriptors, most likely: it may pass.
			log.Printf("tcp: cannot accept: %v", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		r.mutex.Lock()
		r.conns[conn] = struct{}{}
		r.mutex.Unlock()
		r.running.Go(func() { r.readTCP(conn) })
	}
}

// reader sets a connection's deadline anew before each read.
type reader struct {
	conn net.Conn
	r    *Receivers
}

func (d reader) Read(buffer []byte) (int, error) {
	// In this order: a drain that begins in between sets the short time itself.
	_ = d.conn.SetReadDeadline(time.Now().Add(idleLimit))
	if d.r.drain.Load() {
		_ = d.conn.SetReadDeadline(time.Now().Add(drainIdle))
	}
	return d.conn.Read(buffer)
}

func (r *Receivers) readTCP(conn net.Conn) {
	r.tcpCount.active.Add(1)
	defer func() {
		conn.Close()
		r.tcpCount.active.Add(-1)
		r.mutex.Lock()
		delete(r.conns, conn)
		r.mutex.Unlock()
	}()
	lines := bufio.NewReaderSize(reader{conn, r}, longestLine)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case err == nil:
			r.take(string(line), &r.tcpCount)
		case errors.Is(err, bufio.ErrBufferFull):
			r.tcpCount.errors.Add(1)
			log.Printf("tcp: %s sent a line of more than %d bytes", conn.RemoteAddr(), longestLine)
			return
		default:
			if len(line) > 0 {
				r.tcpCount.errors.Add(1)
				log.Printf("tcp: %s left off within a line", conn.RemoteAddr())
			}
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
				log.Printf("tcp: %v", err)
			}
			return
		}
	}
}

func (r *Receivers) readUDP() {
	defer r.udp.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, _, err := r.udp.ReadFrom(buffer)
		if err != nil {
			if r.drain.Load() {
				return
			}
			log.Printf("udp: %v", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if r.drain.Load() {
			_ = r.udp.SetReadDeadline(time.Now().Add(drainIdle))
		}
		for line := range strings.Lines(string(buffer[:n])) {
			r.take(line, &r.udpCount)
		}
	}
}

func (r *Receivers) take(line string, count *counters) {
	line = strings.TrimSpace(line)
	if line == "" {
		return
	}
	name, t, value, err := parseLine(line, time.Now().Unix())
	if err == nil {
		err = r.store.Add(name, t, value)
	}
	if err != nil {
		count.errors.Add(1)
		if len(line) > 200 {
			line = line[:200] + "…"
		}
		log.Printf("refused %q: %v", line, err)
		return
	}
	count.received.Add(1)
}

// parseLine reads `name value time`. The time is in seconds since 1970, a fraction is cut off, and -1 means now.
func parseLine(line string, now int64) (name string, t int64, value float64, err error) {
	fields := strings.Fields(line)
	if len(fields) != 3 {
		return "", 0, 0, errors.New("it is not `name value time`")
	}
	value, err = strconv.ParseFloat(fields[1], 64)
	if err != nil || math.IsNaN(value) || math.IsInf(value, 0) {
		return "", 0, 0, errors.New("the value is not a number")
	}
	seconds, err := strconv.ParseFloat(fields[2], 64)
	switch {
	case err != nil || seconds != -1 && !(seconds >= 0 && seconds < 1<<40):
		return "", 0, 0, errors.New("the time is not a time")
	case seconds == -1:
		return fields[0], now, value, nil
	}
	return fields[0], int64(seconds), value, nil
}
