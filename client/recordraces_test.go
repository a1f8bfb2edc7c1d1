package client_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// TestAnnounceComesBack: a relay whose mailbox was left takes mail again once it is
// announced.
func TestAnnounceComesBack(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		w.ownersRelay(r1, nil)
		w.ownersRelay(r2, nil)
		require.NoError(t, w.node.Announce(w.Context(), r1))
		require.NoError(t, w.node.Announce(w.Context(), r2))
		require.NoError(t, w.node.Leave(w.Context(), r1, false))
		requireStatus(t, http.StatusForbidden, w.enemy(r1))
		require.NoError(t, w.node.Announce(w.Context(), r1, r2))
		w.leave(r1, "1")
		w.node.Online()
		time.Sleep(time.Minute)
		require.Equal(t, []string{"1"}, w.fetched())
	})
}

// TestNodeCallsTogether: all calls about relays at the same time, while the Node goes
// offline and online and is closed, leave one state, which is on the disk.
func TestNodeCallsTogether(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		names := []spec.ServerName{r1, r2, r3}
		for _, name := range names {
			w.ownersRelay(name, nil)
		}
		require.NoError(t, w.node.Announce(w.Context(), names...))
		var all sync.WaitGroup
		for i, name := range names {
			for _, call := range []func(context.Context) error{
				func(ctx context.Context) error { return w.node.Announce(ctx, name) },
				func(ctx context.Context) error { return w.node.Leave(ctx, name, i == 0) },
				func(ctx context.Context) error { return w.node.Return(ctx, name) },
				func(ctx context.Context) error {
					return w.node.SetPolicy(ctx, client.MailboxPolicy{Allow: []spec.ServerName{name}})
				},
				func(context.Context) error { w.node.Offline(); w.node.Online(); return nil },
			} {
				all.Go(func() {
					for range 3 { // few, since relays limit claims
						_ = call(w.Context()) // a mailbox may be another by now
						time.Sleep(time.Second)
					}
				})
			}
		}
		all.Wait()
		time.Sleep(2 * time.Hour) // the last record is signed
		link := w.node.Link()
		policy, ok := w.node.Policy()
		require.True(t, ok)
		w.close()
		w.open()
		w.run()
		require.Equal(t, link, w.node.Link())
		kept, _ := w.node.Policy()
		require.Equal(t, policy, kept)
		for _, name := range names {
			require.NoError(t, w.node.Return(w.Context(), name))
		}
		w.node.Online()
		time.Sleep(2 * time.Hour)
		record, err := wire.ReadLink(link)
		require.NoError(t, err)
		for _, relay := range record.Relays {
			require.Equal(t, policy.Allow, w.holds(relay.Name).Allow)
			held, err := w.asA().RelayRecord(w.Context(), relay.Name, a.ServerName)
			require.NoError(t, err)
			require.Equal(t, record, held)
		}
	})
}

// A relay, or the proxy in front of it, that forbids all requests about mailboxes is asked
// seldom after a while.
func TestNodePolicyForbidden(t *testing.T) {
	own := &ownRequests{asked: make(map[string]int)}
	inNodeWorld(t, func(c *client.NodeConfig) {
		own.RoundTripper, c.Transport = c.Transport, own
		c.Receiver = client.ReceiverConfig{Wait: -1, PollInterval: -1}
	}, func(w *nodeWorld) {
		box := w.relay(r1)
		w.net.Set(r1, relaytest.Host{Handler: oddPaths{http.StatusForbidden, box.Server}})
		w.setRelays(a.ServerName, r1)
		w.setPolicy("b")
		time.Sleep(4 * 24 * time.Hour)
		own.take()
		time.Sleep(4 * 24 * time.Hour)
		asked := own.take()["GET mailbox"]
		require.Positive(t, asked)
		require.LessOrEqual(t, asked, 9, fmt.Sprint(asked))
	})
}
