package client_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
)

// A Node leaves a transaction at b's relay while b can't be reached, hands it over when
// it sees b, and fetches from its own relay. A transaction comes only one way.
func TestNode(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		w.relay(r1)
		box := w.relay(r2)
		w.setRelays(a.ServerName, r1)
		w.setRelays(b.ServerName, r2)
		require.Equal(t, []spec.ServerName{r1}, w.node.Relays(a.ServerName))
		w.enqueue("1", "2")
		w.leave(r1, "x", "y")
		time.Sleep(time.Second)
		require.Equal(t, []string{"1 relayed", "2 relayed"}, w.told())
		require.Equal(t, []string{"x", "y"}, w.fetched())
		usage, err := box.Store.Usage(w.Context(), b.ServerName)
		require.NoError(t, err)
		require.EqualValues(t, 2, usage.Entries)

		home := w.net.AddHomeserver(b.ServerName)
		_, err = b.Federation(w.net).SendTransaction(w.Context(), b.Transaction(a.ServerName, "z", 1, 100))
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Equal(t, []string{"1 delivered", "2 delivered"}, w.told(), "the request showed b")
		require.Len(t, home.Sent(), 2)
		_, err = b.Federation(w.net).SendTransaction(w.Context(), b.Transaction(a.ServerName, "y", 1, 100))
		require.NoError(t, err)
		w.leave(r1, "z", "last")
		time.Sleep(time.Second)
		require.Equal(t, []string{"z"}, w.direct)
		require.Equal(t, []string{"x", "y", "last"}, w.fetched())
	})
}

// Relays are set whole, for this server while it runs.
func TestNodeSetRelays(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		for i, relay := range []spec.ServerName{r1, r2, r3} {
			w.relay(relay)
			w.setRelays(a.ServerName, relay)
			w.leave(relay, string(relay))
			time.Sleep(time.Second)
			require.Len(t, w.fetched(), i+1)
			require.Equal(t, []spec.ServerName{relay}, w.node.Relays(a.ServerName))
		}
		before := w.net.Asked(r1)
		w.leave(r1, "late")
		time.Sleep(time.Hour)
		require.Equal(t, before+1, w.net.Asked(r1), "only to leave it")
		w.setRelays(a.ServerName, r3, r1)
		time.Sleep(time.Second)
		require.Equal(t, []string{"r1", "r2", "r3", "late"}, w.fetched())
		w.setRelays(a.ServerName)
		require.Empty(t, w.node.Relays(a.ServerName))
		require.Error(t, w.node.SetRelays(w.Context(), a.ServerName, a.ServerName))
		require.Error(t, w.node.SetRelays(w.Context(), a.ServerName, "no name"))
		require.Empty(t, w.node.Relays(a.ServerName))
	})
}

// A Node goes on where it was, after it was closed or its process was killed.
func TestNodeReopened(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		w.relay(r1)
		w.relay(r2)
		w.setRelays(a.ServerName, r1)
		w.setRelays(b.ServerName, r2)
		w.leave(r1, "x")
		time.Sleep(time.Second)
		w.goOffline()
		w.enqueue("1")
		w.close()
		w.offline.Store(false)
		w.leave(r1, "y")

		w.open()
		require.Equal(t, []spec.ServerName{r1}, w.node.Relays(a.ServerName))
		require.Equal(t, []spec.ServerName{r2}, w.node.Relays(b.ServerName))
		time.Sleep(time.Hour)
		require.Empty(t, w.told(), "nobody is asked before Run")
		w.run()
		time.Sleep(time.Second)
		require.Equal(t, []string{"1 relayed"}, w.told())
		require.Equal(t, []string{"x", "y"}, w.fetched())
		w.relay(r3)
		w.setRelays(a.ServerName, r3)
		w.leave(r3, "x")
		time.Sleep(time.Second)
		require.Equal(t, []string{"x", "y"}, w.fetched(), "mail that was handled before is a copy")
	})
}

// One store serves a Node and a relay, and neither sees the other's.
func TestNodeSharesStoreWithRelay(t *testing.T) {
	for name, open := range notedStores {
		t.Run(name, func(t *testing.T) {
			mail, network := open(t), relaytest.NewNetwork()
			defer func() { require.NoError(t, mail.Close()) }()
			defer func() { require.NoError(t, network.Close()) }()
			handled, delivered := make(chan string, 10), make(chan client.Event, 10)
			node, err := client.OpenNode(t.Context(), client.NodeConfig{
				Identity: a.SigningIdentity, Transport: network, Store: mail,
				Handle: func(_ context.Context, got client.Received) error { handled <- string(got.TransactionID); return nil },
				Outbox: client.OutboxConfig{Notify: func(e client.Event) { delivered <- e }},
			})
			require.NoError(t, err)
			_, err = network.AddRelay(relay.Config{ServerName: r1})
			require.NoError(t, err)
			ours, err := network.AddRelay(relay.Config{ServerName: a.ServerName, Store: mail, Asked: node.Seen})
			require.NoError(t, err)
			require.NoError(t, node.SetRelays(t.Context(), a.ServerName, r1))
			require.NoError(t, node.Enqueue(t.Context(), transaction(t, "1")))
			sender, err := client.NewCaller(client.CallerConfig{Identity: b.SigningIdentity, Transport: network})
			require.NoError(t, err)
			for to, at := range map[spec.ServerName]spec.ServerName{b.ServerName: a.ServerName, a.ServerName: r1} {
				made, err := client.NewTransaction(b.Transaction(to, "2", 1, 100))
				require.NoError(t, err)
				require.NoError(t, sender.Send(t.Context(), at, made))
			}
			names, err := mail.Destinations(t.Context(), "", 10)
			require.NoError(t, err)
			require.Equal(t, []spec.ServerName{b.ServerName}, names)
			status, err := node.Status(t.Context())
			require.NoError(t, err)
			require.Len(t, status.Destinations, 1)
			require.EqualValues(t, 1, status.Destinations[0].Waiting, "not the relay's")

			ended := make(chan error)
			go func() { ended <- node.Run(t.Context()) }()
			require.Equal(t, "2", <-handled)
			home := network.AddHomeserver(b.ServerName)
			answer, err := sender.Next(t.Context(), a.ServerName, 0) // the relay sees b, and tells the Node
			require.NoError(t, err)
			require.True(t, answer.EntriesQueued)
			require.Equal(t, client.ResultDelivered, (<-delivered).Result)
			require.Len(t, home.Sent(), 1)
			require.NoError(t, node.Close())
			require.NoError(t, <-ended)
			require.NoError(t, ours.Close())
		})
	}
}

// Run ends well when its context ends or the Node is closed, and is one at a time.
func TestNodeRun(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		w.setRelays(a.ServerName, r1)
		synctest.Wait()
		require.ErrorContains(t, w.node.Run(w.Context()), "twice")
		w.stop()
		require.NoError(t, <-w.ended)
		w.run()
		synctest.Wait()
		w.goOffline()
		w.stop()
		require.NoError(t, <-w.ended)
		w.node.Online()
		require.NoError(t, w.node.Close())
		for range 100 {
			require.NoError(t, w.node.Run(w.Context()))
		}
		w.offline.Store(false)
		w.open()
		w.run()
	})
}

// A failing is a store that has to be reopened once failed is closed.
type failing struct {
	notedStore
	failed chan struct{}
	why    error
}

func (f failing) Failed() <-chan struct{} { return f.failed }
func (f failing) Failure() error          { return f.why }

// Run fails with the store, while it is online or offline.
func TestNodeRunFails(t *testing.T) {
	for _, offline := range []bool{false, true} {
		inNodeWorld(t, nil, func(w *nodeWorld) {
			w.close()
			broken := failing{w.mail, make(chan struct{}), errors.Join(store.ErrReopen, errors.New("the disk"))}
			w.change = func(c *client.NodeConfig) { c.Store, c.Offline = broken, offline }
			w.open()
			w.run()
			time.Sleep(time.Hour)
			require.Empty(t, w.ended)
			close(broken.failed)
			err := <-w.ended
			require.ErrorIs(t, err, store.ErrReopen)
			require.ErrorContains(t, err, "the disk")
			w.ended <- nil // for close
		})
	}
}

// Settings that the Node makes itself, or can't do without, are refused at once.
func TestNodeConfig(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		caller, err := client.NewCaller(client.CallerConfig{Identity: a.SigningIdentity, Transport: w.net})
		require.NoError(t, err)
		peers := client.NewPeers()
		sender, err := client.NewSender(client.SenderConfig{Caller: caller, Peers: peers})
		require.NoError(t, err)
		for name, change := range map[string]func(*client.NodeConfig){
			"Store and Handle": func(c *client.NodeConfig) { c.Store = nil },
			"Handle":           func(c *client.NodeConfig) { c.Handle = nil },
			"store.Notes":      func(c *client.NodeConfig) { c.Store = struct{ store.Store }{w.mail} },
			"Transport":        func(c *client.NodeConfig) { c.Transport = nil },
			"Identity":         func(c *client.NodeConfig) { c.Identity.ServerName = "" },
			"private key":      func(c *client.NodeConfig) { c.Identity.PrivateKey = nil },
			"besides the Node": func(c *client.NodeConfig) { c.Outbox.PassOn = everything },
			"needs Keys":       func(c *client.NodeConfig) { c.Keys, c.Receiver.RequireProof = nil, true },
			"Caller.Identity":  func(c *client.NodeConfig) { c.Caller.Identity = a.SigningIdentity },
			"Caller.Transport": func(c *client.NodeConfig) { c.Caller.Transport = w.net },
			"Sender.Caller":    func(c *client.NodeConfig) { c.Sender.Caller = caller },
			"Sender.Peers":     func(c *client.NodeConfig) { c.Sender.Peers = peers },
			"Outbox.Sender":    func(c *client.NodeConfig) { c.Outbox.Sender = sender },
			"Outbox.Store":     func(c *client.NodeConfig) { c.Outbox.Store = w.mail },
			"Receiver.Caller":  func(c *client.NodeConfig) { c.Receiver.Caller = caller },
			"Receiver.Peers":   func(c *client.NodeConfig) { c.Receiver.Peers = peers },
			"Receiver.Keys":    func(c *client.NodeConfig) { c.Receiver.Keys = relaytest.Keys() },
			"Receiver.Handle":  func(c *client.NodeConfig) { c.Receiver.Handle = w.handle },
		} {
			config := w.config()
			change(&config)
			_, err := client.OpenNode(w.Context(), config)
			require.ErrorContains(t, err, name)
		}
	})
}

// A homeserver that keeps queues of its own is the Source.
func TestNodeSource(t *testing.T) {
	source := &listSource{}
	inNodeWorld(t, func(c *client.NodeConfig) { c.Outbox.Source = source }, func(w *nodeWorld) {
		require.Error(t, w.node.Enqueue(w.Context(), transaction(t, "1")))
		home := w.net.AddHomeserver(b.ServerName)
		source.add(client.Item{Transaction: transaction(t, "1"), Position: 1})
		w.node.Stored(b.ServerName)
		time.Sleep(time.Second)
		require.Len(t, home.Sent(), 1)
		require.Equal(t, []string{"1 delivered"}, w.told())
	})
}
