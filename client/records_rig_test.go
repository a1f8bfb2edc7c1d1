package client_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// A recordWorld has relays, and Nodes that never reach each other directly, in simulated
// time.
type recordWorld struct {
	*testing.T
	net   *relaytest.Network
	nodes []*recordNode

	// change, if it isn't nil, changes the configuration of each Node.
	change func(*client.NodeConfig)

	// places are the servers at addresses of records.
	places map[string]spec.ServerName

	mu    sync.Mutex
	asked []string // requests, as their origin, method, server and path
}

// pass lets time pass, after which all nodes that aren't away fetch their mail.
func (w *recordWorld) pass(d time.Duration) {
	time.Sleep(d)
	for _, n := range w.nodes {
		if !n.away {
			n.Online()
		}
	}
	time.Sleep(time.Minute)
}

// A recordNode is a Node in a recordWorld.
type recordNode struct {
	*client.Node
	world   *recordWorld
	is      *relaytest.Node
	mail    notedStore
	running sync.WaitGroup
	log     lines
	away    bool
	divert  func(*http.Request) *http.Request // or nil

	mu  sync.Mutex
	got []string // transactions that came, with room events
}

func inRecordWorld(t *testing.T, run func(*recordWorld)) {
	inRecordWorldAt(t, recordTime, run)
}

var recordTime = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func inRecordWorldAt(t *testing.T, start time.Time, run func(*recordWorld)) {
	synctest.Test(t, func(t *testing.T) {
		w := &recordWorld{T: t, net: relaytest.NewNetwork()}
		defer w.close()
		time.Sleep(time.Until(start))
		run(w)
	})
}

func (w *recordWorld) close() {
	for _, n := range w.nodes {
		n.close()
		require.NoError(w, n.mail.Close())
	}
	require.NoError(w, w.net.Close())
}

func (w *recordWorld) relays(names ...spec.ServerName) {
	for _, name := range names {
		_, err := w.net.AddRelay(relay.Config{ServerName: name, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(w, err)
	}
}

// node opens and runs a Node.
func (w *recordWorld) node(is *relaytest.Node) *recordNode {
	n := &recordNode{world: w, is: is, mail: memory.New(memory.Options{})}
	w.nodes = append(w.nodes, n)
	n.open()
	return n
}

func (n *recordNode) open() {
	config := client.NodeConfig{
		Identity: n.is.SigningIdentity, Transport: n, Store: n.mail, Keys: relaytest.Keys(), Handle: n.handle,
		Logger:   slog.New(slog.NewTextHandler(&n.log, nil)),
		Receiver: client.ReceiverConfig{Wait: -1, PollInterval: -1}, // see pass,
	}
	if n.world.change != nil {
		n.world.change(&config)
	}
	var err error
	n.Node, err = client.OpenNode(n.world.Context(), config)
	require.NoError(n.world, err)
	n.running.Go(func() { require.NoError(n.world, n.Run(context.Background())) })
}

func (n *recordNode) close() {
	require.NoError(n.world, n.Close())
	n.running.Wait()
}

func (n *recordNode) handle(_ context.Context, got client.Received) error {
	if bytes.Contains(got.Body, []byte(`"pdus":[]`)) {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.got = append(n.got, string(got.TransactionID))
	return nil
}

// announce has the node announce relays, once it may sign another record.
func (n *recordNode) announce(relays ...spec.ServerName) {
	n.world.Helper()
	if n.Link() != "" {
		time.Sleep(time.Hour)
	}
	require.NoError(n.world, n.Announce(n.world.Context(), relays...))
}

// add has the node take a link.
func (n *recordNode) add(link string) {
	n.world.Helper()
	record, err := wire.ReadLink(link)
	require.NoError(n.world, err)
	require.NoError(n.world, n.AddRecord(n.world.Context(), record))
}

func (n *recordNode) write(to *recordNode, id string) {
	n.world.Helper()
	made, err := client.NewTransaction(n.is.Transaction(to.is.ServerName, id, 1, 100))
	require.NoError(n.world, err)
	require.NoError(n.world, n.Enqueue(n.world.Context(), made))
}

// requireGot: all that came since the last call.
func (n *recordNode) requireGot(ids ...string) {
	n.world.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	slices.Sort(n.got)
	require.Equal(n.world, ids, n.got)
	n.got = nil
}

// RoundTrip implements http.RoundTripper.
func (n *recordNode) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return n.world.net.RoundTrip(n.note(r))
}

// note remembers a request.
func (n *recordNode) note(r *http.Request) *http.Request {
	w := n.world
	about := string(n.is.ServerName) + " " + r.Method + " " + r.URL.Host + " " + strings.TrimPrefix(r.URL.Path, wire.Unstable)
	if r.Body != nil && r.Method == http.MethodGet && strings.Contains(about, " relays/") {
		body, err := io.ReadAll(r.Body)
		require.NoError(w, err)
		require.Empty(w, body, "a question about a record has no body")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, about)
	if n.divert != nil {
		r = n.divert(r)
	}
	return r
}

// RoundTripAt implements client.AddressTransport.
func (n *recordNode) RoundTripAt(r *http.Request, address string) (*http.Response, error) {
	place, ok := n.world.places[address]
	if !ok {
		return nil, fmt.Errorf("%s: %w", address, relaytest.ErrRefused)
	}
	out := r.Clone(r.Context())
	out.URL.Host = string(place)
	return n.RoundTrip(out)
}

// askedAbout counts the requests about records that a node made to a server since the
// last call.
func (n *recordNode) askedAbout(server spec.ServerName) (gets, puts int) {
	w := n.world
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, about := range w.asked {
		switch {
		case strings.HasPrefix(about, fmt.Sprintf("%s GET %s relays/", n.is.ServerName, server)):
			gets++
		case strings.HasPrefix(about, fmt.Sprintf("%s PUT %s relays/", n.is.ServerName, server)):
			puts++
		}
	}
	w.asked = nil
	return gets, puts
}

// lines are the log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// lying answers PUTs of mail as if it had a newer record.
type lying struct{ http.Handler }

func (l lying) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "send_relay") {
		_, _ = w.Write(wire.WithRelaysSeq(wire.SentAnswer, wire.MaxInteger))
		return
	}
	l.Handler.ServeHTTP(w, r)
}
