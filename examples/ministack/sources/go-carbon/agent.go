package main

import "log"

// agent writes the program's own figures into the store, under the real
// program's names as far as there is something to say.
type agent struct {
	prefix    string
	store     *Store
	receivers *Receivers
	server    *Server
	before    map[string]int64 // counters at the last send
}

func newAgent(prefix string, store *Store, receivers *Receivers, server *Server) *agent {
	return &agent{prefix, store, receivers, server, map[string]int64{}}
}

// send adds one point for each figure: levels as they are, counters as what was added since the last time.
func (a *agent) send(now int64) {
	f := a.store.figures()
	levels := map[string]int64{
		"cache.metrics":              int64(f.metrics),
		"cache.size":                 int64(f.unsaved),
		"carbonserver.metrics_known": int64(f.metrics),
		"tcp.active":                 a.receivers.tcpCount.active.Load(),
	}
	counts := map[string]int64{
		"tcp.metricsReceived":          a.receivers.tcpCount.received.Load(),
		"tcp.errors":                   a.receivers.tcpCount.errors.Load(),
		"udp.metricsReceived":          a.receivers.udpCount.received.Load(),
		"udp.errors":                   a.receivers.udpCount.errors.Load(),
		"persister.committedPoints":    f.written,
		"persister.updateOperations":   f.updates,
		"persister.created":            f.created,
		"cache.overflow":               0, // nothing is dropped
		"carbonserver.notfound":        a.server.misses.Load(),
		"carbonserver.find_requests":   a.server.finds.Load(),
		"carbonserver.render_requests": a.server.reads.Load(),
	}
	for name, value := range counts {
		levels[name] = value - a.before[name]
	}
	a.before = counts
	for name, value := range levels {
		if err := a.store.Add(a.prefix+"."+name, now, float64(value)); err != nil {
			log.Printf("cannot keep the own figure %s: %v", name, err)
			return
		}
	}
}
