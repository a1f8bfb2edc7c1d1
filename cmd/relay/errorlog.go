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

// offered is a list of things that a client offers for TLS, which it may write as it likes.
var offered = regexp.MustCompile(`[(\[].*[)\]]`)

const (
	maxKind  = 200
	maxError = 1000 // a client may offer 64 KB
)

// Write implements io.Writer. A kind is a line without addresses and lists.
func (e *errorLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	first, stack, _ := strings.Cut(text, "\n") // behind a panic
	from := peer.FindString(first)
	if strings.Contains(first, "TLS handshake error") {
		e.refused.WithLabelValues(handshake).Inc()
	}
	kind := offered.ReplaceAllString(peer.ReplaceAllString(first, "ADDRESS"), "(...)")
	shown := strings.TrimSpace(first[:min(len(first), maxError)] + "\n" + stack)
	e.lines.Note(kind[:min(len(kind), maxKind)], hostOnly(from), "", shown)
	return len(line), nil
}

// hostOnly cuts the port off.
func hostOnly(address string) string {
	if end := strings.LastIndexByte(address, ':'); end >= 0 {
		return strings.Trim(address[:end], "[]")
	}
	return address
}
