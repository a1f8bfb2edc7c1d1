package client_test

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// ownersRelay adds a relay in the mode open, where owners have a say. It keeps its mail in
// a store, or in one of its own.
func (w *nodeWorld) ownersRelay(name spec.ServerName, kept store.Store) *relaytest.Relay {
	if kept == nil {
		own := memory.New(memory.Options{})
		w.Cleanup(func() { require.NoError(w, own.Close()) })
		kept = own
	}
	open, err := policy.NewOpen(policy.OpenConfig{Store: kept})
	require.NoError(w, err)
	owners, err := policy.NewOwners(policy.OwnersConfig{Store: kept, Mode: open})
	require.NoError(w, err)
	box, err := w.net.AddRelay(relay.Config{
		ServerName: name, Store: kept, Policy: owners, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(w, err)
	return box
}

// holds is the policy for a's mailbox at a relay.
func (w *nodeWorld) holds(at spec.ServerName) wire.MailboxPolicy {
	w.Helper()
	holds, err := w.asA().MailboxPolicy(w.Context(), at)
	require.NoError(w, err)
	return holds
}

// asA calls as a does, past its Node.
func (w *nodeWorld) asA() *client.Caller {
	caller, err := client.NewCaller(client.CallerConfig{Identity: a.SigningIdentity, Transport: w.net})
	require.NoError(w, err)
	return caller
}

func (w *nodeWorld) setPolicy(allow ...spec.ServerName) {
	w.Helper()
	require.NoError(w, w.node.SetPolicy(w.Context(), client.MailboxPolicy{
		Allow: allow, Deny: []spec.ServerName{"enemy"}, Strangers: &wire.Strangers{Entries: 5, Bytes: 5000},
	}))
}

// A Node has its relays have its policy: those that it has, and those that it gets.
func TestNodePolicy(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		w.ownersRelay(r1, nil)
		w.ownersRelay(r2, nil)
		w.relay(r3) // knows no policies
		w.setRelays(a.ServerName, r1, r3)
		time.Sleep(time.Hour)
		require.Zero(t, w.holds(r1).Seq)
		_, ok := w.node.Policy()
		require.False(t, ok)

		w.setPolicy("z", "b", "b")
		time.Sleep(time.Second)
		first := w.holds(r1)
		require.Equal(t, []spec.ServerName{"b", "z"}, first.Allow)
		require.Equal(t, []spec.ServerName{"enemy"}, first.Deny)
		require.Equal(t, &wire.Strangers{Entries: 5, Bytes: 5000}, first.Strangers)
		requireStatus(t, http.StatusForbidden, w.enemy(r1))

		w.setRelays(a.ServerName, r1, r2, r3)
		time.Sleep(time.Minute)
		require.Equal(t, first.Allow, w.holds(r2).Allow, "it claims its mailbox there first")
		w.setPolicy("c")
		time.Sleep(time.Second)
		for _, relay := range []spec.ServerName{r1, r2} {
			require.Equal(t, []spec.ServerName{"c"}, w.holds(relay).Allow)
		}
		require.Equal(t, first.Seq+1, w.holds(r1).Seq)
		require.NoError(t, w.node.SetPolicy(w.Context(), client.MailboxPolicy{}))
		time.Sleep(time.Second)
		require.Equal(t, wire.MailboxPolicy{
			Mailbox: first.Mailbox, Seq: first.Seq + 2, Allow: []spec.ServerName{}, Deny: []spec.ServerName{},
		}, w.holds(r1))
	})
}

// enemy has a server that is denied leave mail for a.
func (w *nodeWorld) enemy(at spec.ServerName) error {
	enemy := relaytest.NewNamed("enemy")
	caller, err := client.NewCaller(client.CallerConfig{Identity: enemy.SigningIdentity, Transport: w.net})
	require.NoError(w, err)
	made, err := client.NewTransaction(enemy.Transaction(a.ServerName, "1", 1, 100))
	require.NoError(w, err)
	return caller.Send(w.Context(), at, made)
}

// The policy is kept, and it holds again at a relay that has lost it, or has another one
// with a greater number.
func TestNodePolicyLasts(t *testing.T) {
	skipIfShort(t)
	inNodeWorld(t, nil, func(w *nodeWorld) {
		box := w.ownersRelay(r1, nil)
		w.setRelays(a.ServerName, r1)
		w.setPolicy("b")
		time.Sleep(time.Minute)
		w.close()
		state, err := w.asA().Mailbox(w.Context(), r1)
		require.NoError(t, err)
		require.NoError(t, w.asA().SetMailboxPolicy(w.Context(), r1, wire.MailboxPolicy{Mailbox: state.Mailbox, Seq: 1000}))
		require.Empty(t, w.holds(r1).Allow)

		w.open()
		w.run()
		time.Sleep(time.Second)
		require.Equal(t, []spec.ServerName{"b"}, w.holds(r1).Allow)
		require.EqualValues(t, 1001, w.holds(r1).Seq)
		kept, ok := w.node.Policy()
		require.True(t, ok)
		require.Equal(t, []spec.ServerName{"b"}, kept.Allow)

		require.NoError(t, box.Close())
		w.ownersRelay(r1, nil) // which has forgotten all
		time.Sleep(25 * time.Hour)
		require.Equal(t, []spec.ServerName{"b"}, w.holds(r1).Allow)
	})
}

// A relay that can't be reached hears of the policy later, and holds up no other one.
func TestNodePolicyRetried(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		w.ownersRelay(r1, nil)
		w.ownersRelay(r2, nil)
		w.setRelays(a.ServerName, r1, r2)
		time.Sleep(time.Minute)
		w.net.SetOffline(r1, true)
		w.setPolicy("b")
		time.Sleep(2 * time.Hour)
		require.Equal(t, []spec.ServerName{"b"}, w.holds(r2).Allow)
		w.net.SetOffline(r1, false)
		require.Empty(t, w.holds(r1).Allow)
		w.node.Online()
		time.Sleep(time.Second)
		require.Equal(t, []spec.ServerName{"b"}, w.holds(r1).Allow)

		w.net.SetOffline(r1, true)
		w.setPolicy("c")
		time.Sleep(2 * time.Hour)
		w.net.SetOffline(r1, false)
		time.Sleep(2 * time.Hour)
		require.Equal(t, []spec.ServerName{"c"}, w.holds(r1).Allow)
	})
}

// ownRequests counts the requests about a mailbox, by their method and last part.
type ownRequests struct {
	http.RoundTripper
	mu    sync.Mutex
	asked map[string]int
}

func (o *ownRequests) RoundTrip(r *http.Request) (*http.Response, error) {
	if name, ok := strings.CutPrefix(r.URL.Path, wire.Unstable); ok {
		o.mu.Lock()
		o.asked[r.Method+" "+name]++
		o.mu.Unlock()
	}
	return o.RoundTripper.RoundTrip(r)
}

func (o *ownRequests) take() map[string]int {
	o.mu.Lock()
	defer o.mu.Unlock()
	asked := o.asked
	o.asked = make(map[string]int)
	return asked
}

// Without a policy nobody is asked; with one, each relay is told once, and asked daily,
// also if it knows no policies or the Node goes offline again and again.
func TestNodePolicyAsksSeldom(t *testing.T) {
	skipIfShort(t)
	own := &ownRequests{asked: make(map[string]int)}
	inNodeWorld(t, func(c *client.NodeConfig) { own.RoundTripper, c.Transport = c.Transport, own }, func(w *nodeWorld) {
		w.ownersRelay(r1, nil)
		w.relay(r2)
		w.setRelays(a.ServerName, r1, r2)
		time.Sleep(2 * time.Hour)
		require.Empty(t, own.take())
		w.setPolicy("b")
		for range 20 {
			time.Sleep(time.Hour)
			w.goOffline()
			time.Sleep(time.Minute)
			w.goOnline()
			w.node.Online()
		}
		require.Equal(t, map[string]int{"GET mailbox": 2, "PUT policy": 1}, own.take())
		time.Sleep(24 * time.Hour)
		require.Equal(t, map[string]int{"GET mailbox": 2, "GET policy": 1}, own.take())
	})
}

// A server that answers unknown paths in its own way isn't asked again and again.
func TestNodePolicyOddAnswers(t *testing.T) {
	skipIfShort(t)
	for _, status := range []int{http.StatusOK, http.StatusBadRequest, http.StatusNotImplemented} {
		own := &ownRequests{asked: make(map[string]int)}
		inNodeWorld(t, func(c *client.NodeConfig) { own.RoundTripper, c.Transport = c.Transport, own }, func(w *nodeWorld) {
			box := w.relay(r1)
			w.net.Set(r1, relaytest.Host{Handler: oddPaths{status, box.Server}})
			w.setRelays(a.ServerName, r1)
			w.setPolicy("b")
			time.Sleep(47 * time.Hour)
			require.Equal(t, map[string]int{"GET mailbox": 2}, own.take(), status)
		})
	}
}

func TestPoliciesThatNobodyTakes(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		for _, p := range []client.MailboxPolicy{
			{Allow: []spec.ServerName{"no name"}},
			{Deny: make([]spec.ServerName, 1)},
			{Strangers: &wire.Strangers{Entries: -1}},
		} {
			require.Error(t, w.node.SetPolicy(w.Context(), p))
		}
		_, ok := w.node.Policy()
		require.False(t, ok)
		ended, cancel := context.WithCancel(w.Context())
		cancel()
		_, err := w.asA().Mailbox(ended, r1)
		require.ErrorIs(t, err, context.Canceled)
		require.Error(t, w.asA().SetMailboxPolicy(w.Context(), r1, wire.MailboxPolicy{}))
	})
}

// A relay that says that the greatest number holds can't be told, and keeps the others
// from nothing.
func TestPolicyOfALyingRelay(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		w.ownersRelay(r2, nil)
		w.net.Set(r1, relaytest.Host{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = rw.Write([]byte(`{"mailbox":"x","policy_seq":9223372036854775807,"seq":9223372036854775807}`))
		})})
		w.setRelays(a.ServerName, r1, r2)
		w.setPolicy("b")
		time.Sleep(time.Hour)
		require.Equal(t, []spec.ServerName{"b"}, w.holds(r2).Allow)
	})
}

// A Node leaves a relay, fetches the mail that is there, and comes back.
func TestNodeLeaves(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		box := w.ownersRelay(r1, nil)
		w.setRelays(a.ServerName, r1)
		w.setPolicy("b")
		time.Sleep(time.Minute)
		w.goOffline()
		w.offline.Store(false)
		w.leave(r1, "1")
		for range 2 {
			require.NoError(t, w.node.Leave(w.Context(), r1, false))
		}
		requireStatus(t, http.StatusForbidden, w.enemy(r1))
		require.NoError(t, box.Close())
		w.ownersRelay(r1, box.Store)
		w.goOnline()
		time.Sleep(time.Minute)
		require.Equal(t, []string{"1"}, w.fetched())
		state, err := w.node.Mailbox(w.Context(), r1)
		require.NoError(t, err)
		require.Equal(t, wire.StateLeft, state.State)

		for range 2 {
			require.NoError(t, w.node.Return(w.Context(), r1))
		}
		w.leave(r1, "2")
		require.NoError(t, w.node.Leave(w.Context(), r1, true))
		usage, err := box.Store.Usage(w.Context(), a.ServerName)
		require.NoError(t, err)
		require.Zero(t, usage.Entries)
		w.relay(r2)
		requireStatus(t, http.StatusNotFound, w.node.Leave(w.Context(), r2, true))
	})
}
