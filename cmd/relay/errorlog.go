package main

import (
	"log"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrixrelay/relay/bounded"
	"github.com/matrixrelay/relay/internal/address"
	"github.com/matrixrelay/relay/internal/tally"
)

// An errorLog is an http.Server's ErrorLog, and has the connections that were refused.
// Strangers can have it log as much as they like, so it has the first line of each kind,
// and then one a minute.
type errorLog struct {
	lines   *tally.Tally
	refused *prometheus.CounterVec
}

func newErrorLog(logger *slog.Logger) *errorLog {
	return &errorLog{tally.New(logger, "connections failed in the last minute"), refusedConnections()}
}

// refuse counts a connection that a bounded.Listener has closed.
func (e *errorLog) refuse(why bounded.Reason, from netip.Addr) {
	e.refused.WithLabelValues(string(why)).Inc()
	e.lines.Note(string(why), address.Of(from).String(), "", "closed a connection of an address that has too many")
}

func (e *errorLog) logger() *log.Logger { return log.New(e, "", 0) }

func (e *errorLog) close() { e.lines.Close() }

// peer is an address with a port, as net/http writes it.
var peer = regexp.MustCompile(`(\[[0-9a-fA-F:.%\w]+\]|\d+\.\d+\.\d+\.\d+):\d+`)

// Write implements io.Writer. A kind is a line without addresses.
func (e *errorLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	first, _, _ := strings.Cut(text, "\n") // a panic has its stack behind it
	from := peer.FindString(first)
	if strings.Contains(first, "TLS handshake error") {
		e.refused.WithLabelValues(handshake).Inc()
	}
	kind := peer.ReplaceAllString(first, "ADDRESS")
	e.lines.Note(kind[:min(len(kind), 200)], hostOnly(from), "", text)
	return len(line), nil
}

// hostOnly cuts the port off.
func hostOnly(address string) string {
	if end := strings.LastIndexByte(address, ':'); end >= 0 {
		return strings.Trim(address[:end], "[]")
	}
	return address
}
