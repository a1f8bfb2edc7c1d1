package client_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// A passWorld is node a, which leaves mail for b at relays that pass it on, and
// b, which takes it in from relays that hand it over and fetches the rest.
type passWorld struct {
	*testing.T
	net      *relaytest.Network
	peers    *client.Peers // of b
	receiver *client.Receiver
	server   *relay.Server // of b

	mu      sync.Mutex
	handled []string // how, and the ID
	refuse  func(id gomatrixserverlib.TransactionID) error
}

func inPassWorld(t *testing.T, run func(*passWorld)) {
	synctest.Test(t, func(t *testing.T) {
		w := &passWorld{T: t, net: relaytest.NewNetwork(), peers: client.NewPeers()}
		caller, err := client.NewCaller(client.CallerConfig{Identity: b.SigningIdentity, Transport: w.net})
		require.NoError(t, err)
		w.receiver, err = client.NewReceiver(client.ReceiverConfig{
			Caller: caller, Peers: w.peers, Keys: wire.HexKeys{}, RequireProof: true, Logger: slog.New(slog.DiscardHandler),
			Handle: func(_ context.Context, got client.Received) error {
				return w.take("fetched", got.Origin, got.TransactionID)
			},
		})
		require.NoError(t, err)
		w.server, err = relay.New(relay.Config{ServerName: nodeB, Store: memory.New(memory.Options{}), Deliver: w.deliver, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		run(w)
	})
}

func (w *passWorld) deliver(ctx context.Context, d relay.Delivery) error {
	_, err := w.receiver.Direct(ctx, d.Origin, d.TransactionID, d.Body, func(context.Context) error { return w.take("handed", d.Origin, d.TransactionID) })
	return err
}

func (w *passWorld) take(how string, origin spec.ServerName, id gomatrixserverlib.TransactionID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if origin != a.ServerName {
		w.Errorf("%s comes from %s", id, origin)
	}
	if w.refuse != nil {
		if err := w.refuse(id); err != nil {
			return err
		}
	}
	w.handled = append(w.handled, fmt.Sprintf("%s %s", how, id))
	return nil
}

// got returns the mail that was handled since the last call.
func (w *passWorld) got() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	got := w.handled
	w.handled = nil
	return got
}

// b has b on the network, or not.
func (w *passWorld) b(here bool) {
	w.net.Set(nodeB, relaytest.Host{})
	if here {
		w.net.Set(nodeB, relaytest.Host{Handler: w.server, Latency: 10 * time.Millisecond})
	}
}

// leave leaves transactions for b at relays.
func (w *passWorld) leave(ids string, relays ...*passer) {
	w.Helper()
	caller, err := client.NewCaller(client.CallerConfig{Identity: a.SigningIdentity, Transport: w.net})
	require.NoError(w, err)
	for _, id := range ids {
		t, err := client.NewTransaction(a.Transaction(nodeB, string(id), 1, 100))
		require.NoError(w, err)
		for _, r := range relays {
			require.NoError(w, caller.Send(w.Context(), r.name, t))
		}
	}
}

// sync has b fetch from these relays.
func (w *passWorld) sync(relays ...*passer) []client.Drained {
	w.Helper()
	require.NoError(w, w.peers.RemoveRelays(w.Context(), nodeB, w.peers.Relays(nodeB)...))
	for _, r := range relays {
		require.NoError(w, w.peers.AddRelays(w.Context(), nodeB, r.name))
	}
	all := w.receiver.Sync(w.Context())
	for _, d := range all {
		require.NoError(w, d.Err)
	}
	return all
}

// A passer is a relay that may pass on its mail.
type passer struct {
	w       *passWorld
	name    spec.ServerName
	node    *relaytest.Node
	kept    *memory.Store
	peers   *client.Peers
	passOn  func(spec.ServerName) bool // nil: it doesn't
	sender  *client.Sender
	outbox  *client.Outbox
	server  *relay.Server
	puts    atomic.Int64 // that it got
	stopped bool
}

func everything(spec.ServerName) bool { return true }

// passer puts a relay on the network.
func (w *passWorld) passer(seed string, passOn func(spec.ServerName) bool) *passer {
	node := relaytest.NewNode(seed)
	p := &passer{w: w, name: node.ServerName, node: node, kept: memory.New(memory.Options{}), peers: client.NewPeers(), passOn: passOn}
	p.start()
	w.Cleanup(func() {
		p.stop()
		require.NoError(w, p.kept.Close())
	})
	return p
}

func (p *passer) start() {
	config := relay.Config{ServerName: p.name, Store: p.kept, Logger: slog.New(slog.DiscardHandler)}
	if p.passOn != nil {
		caller, err := client.NewCaller(client.CallerConfig{Identity: p.node.SigningIdentity, Transport: p.w.net})
		require.NoError(p.w, err)
		p.sender, err = client.NewSender(client.SenderConfig{Caller: caller, Peers: p.peers, Logger: config.Logger})
		require.NoError(p.w, err)
		p.outbox, err = client.OpenOutbox(p.w.Context(), client.OutboxConfig{
			Sender: p.sender, Store: p.kept, PassOn: p.passOn, Logger: config.Logger,
			KeepRelayed: -1, // mail that others have stays here all the same
		})
		require.NoError(p.w, err)
		config.Stored, config.Asked = p.outbox.Stored, p.outbox.Seen
	}
	var err error
	p.server, err = relay.New(config)
	require.NoError(p.w, err)
	p.stopped = false
	p.w.net.Set(p.name, relaytest.Host{Latency: 10 * time.Millisecond, Handler: http.HandlerFunc(p.serve)})
}

func (p *passer) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		p.puts.Add(1)
	}
	p.server.ServeHTTP(w, r)
}

func (p *passer) stop() {
	if p.stopped {
		return
	}
	p.stopped = true
	p.w.net.Set(p.name, relaytest.Host{})
	require.NoError(p.w, p.server.Close())
	if p.outbox != nil {
		require.NoError(p.w, p.outbox.Close())
		require.NoError(p.w, p.sender.Close())
	}
}

// knows tells the relay which relays act for b.
func (p *passer) knows(relays ...*passer) {
	for _, r := range relays {
		require.NoError(p.w, p.peers.AddRelays(p.w.Context(), nodeB, r.name))
	}
}

// left is how much mail is there.
func (p *passer) left() int {
	usage, err := p.kept.Usage(context.Background(), "")
	require.NoError(p.w, err)
	return int(usage.Entries)
}
