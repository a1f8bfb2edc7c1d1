package client_test

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
)

// A nodeWorld is the Node of server a on a network with relays, in simulated
// time.
type nodeWorld struct {
	*testing.T
	net    *relaytest.Network
	mail   notedStore
	node   *client.Node
	change func(*client.NodeConfig)

	ended   chan error // the result of Run
	stop    context.CancelFunc
	offline atomic.Bool // it must ask nobody

	mu     sync.Mutex
	got    []string // transactions that came through relays
	direct []string
	events []string
	fail   func(ctx context.Context) error // of the handler
}

// skipIfShort is for tests of many days or megabytes, for which the race detector takes
// long and in which it sees nothing that others don't show.
func skipIfShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it is too long for -short")
	}
}

func inNodeWorld(t *testing.T, change func(*client.NodeConfig), run func(*nodeWorld)) {
	synctest.Test(t, func(t *testing.T) {
		w := &nodeWorld{T: t, net: relaytest.NewNetwork(), mail: memory.New(memory.Options{}), change: change}
		home := w.net.AddHomeserver(a.ServerName)
		home.Take = w.take
		w.open()
		w.run()
		run(w)
		w.close()
		require.NoError(t, w.net.Close())
		require.NoError(t, w.mail.Close())
	})
}

func (w *nodeWorld) config() client.NodeConfig {
	config := client.NodeConfig{
		Identity: a.SigningIdentity, Transport: w, Store: w.mail, Keys: relaytest.Keys(),
		Handle: w.handle, Logger: slog.New(slog.DiscardHandler),
		Outbox: client.OutboxConfig{Notify: w.note},
	}
	if w.change != nil {
		w.change(&config)
	}
	return config
}

func (w *nodeWorld) open() {
	node, err := client.OpenNode(w.Context(), w.config())
	require.NoError(w, err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.node = node
}

func (w *nodeWorld) current() *client.Node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.node
}

func (w *nodeWorld) run() {
	ctx, stop := context.WithCancel(w.Context())
	w.stop, w.ended = stop, make(chan error, 1)
	node := w.node
	go func() { w.ended <- node.Run(ctx) }()
}

func (w *nodeWorld) close() {
	require.NoError(w, w.node.Close())
	w.stop()
	require.NoError(w, <-w.ended)
	require.NoError(w, w.node.Close())
}

// RoundTrip implements http.RoundTripper for the Node.
func (w *nodeWorld) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err // as a transport does that asks nobody then
	}
	if w.offline.Load() {
		w.Errorf("%s is asked for %s by a node that is offline", r.URL.Host, r.URL.Path)
	}
	return w.net.RoundTrip(r)
}

// goOffline says that there is no network, which is so only for requests that the
// Node makes.
func (w *nodeWorld) goOffline() {
	w.node.Offline()
	w.offline.Store(true)
}

func (w *nodeWorld) goOnline() {
	w.offline.Store(false)
	w.node.Online()
}

func (w *nodeWorld) handle(ctx context.Context, got client.Received) error {
	w.mu.Lock()
	fail := w.fail
	w.mu.Unlock()
	if fail != nil {
		if err := fail(ctx); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got = append(w.got, string(got.TransactionID))
	return nil
}

func (w *nodeWorld) fails(how func(context.Context) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = how
}

// take is the handler of PUT /send.
func (w *nodeWorld) take(ctx context.Context, sent relaytest.Sent) error {
	_, err := w.current().Direct(ctx, sent.Origin, sent.TransactionID, sent.Body, func(context.Context) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.direct = append(w.direct, string(sent.TransactionID))
		return nil
	})
	return err
}

func (w *nodeWorld) note(e client.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, string(e.TransactionID)+" "+string(e.Result))
}

// fetched are the transactions that came through relays, in order.
func (w *nodeWorld) fetched() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.got)
}

// told returns the events since the last call.
func (w *nodeWorld) told() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	events := w.events
	w.events = nil
	return events
}

func (w *nodeWorld) relay(name spec.ServerName) *relaytest.Relay {
	box, err := w.net.AddRelay(relay.Config{ServerName: name, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(w, err)
	return box
}

func (w *nodeWorld) setRelays(server spec.ServerName, relays ...spec.ServerName) {
	require.NoError(w, w.node.SetRelays(w.Context(), server, relays...))
}

func (w *nodeWorld) enqueue(ids ...string) {
	w.Helper()
	for _, id := range ids {
		require.NoError(w, w.node.Enqueue(w.Context(), transaction(w.T, id)))
	}
}

// leave has b leave transactions for a at a relay.
func (w *nodeWorld) leave(at spec.ServerName, ids ...string) {
	w.Helper()
	caller, err := client.NewCaller(client.CallerConfig{Identity: b.SigningIdentity, Transport: w.net})
	require.NoError(w, err)
	for _, id := range ids {
		made, err := client.NewTransaction(b.Transaction(a.ServerName, id, 1, 100))
		require.NoError(w, err)
		require.NoError(w, caller.Send(w.Context(), at, made))
	}
}

func (w *nodeWorld) status() client.NodeStatus {
	status, err := w.node.Status(w.Context())
	require.NoError(w, err)
	return status
}
