package client_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

var nodeC = relaytest.NewNode("c").ServerName

// A provenInbox is an inbox that checks proofs, with one relay, which may forge
// its answers.
type provenInbox struct {
	*inbox
	keys  *keyBook
	kept  *memory.Store // of the relay
	forge func(*wire.Item)

	handling func(client.Received) // or nil
	received []client.Received     // by Handle
	rejected []client.Received
	reasons  []error
}

func inProvenInbox(t *testing.T, change func(*client.ReceiverConfig), run func(*provenInbox)) {
	inInbox(t, func(b *inbox) {
		p := &provenInbox{inbox: b, keys: &keyBook{known: map[spec.ServerName]bool{}}, kept: memory.New(memory.Options{})}
		require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r2, r3))
		b.relay(r1, func(c *relay.Config) {
			c.Store = p.kept
			c.Keys = wire.HexKeys{Others: &keyBook{known: map[spec.ServerName]bool{"named": true}}}
		})
		real := b.net.Host(r1)
		real.Handler = &forger{p, real.Handler}
		b.net.Set(r1, real)
		b.restart(func(_ *client.CallerConfig, c *client.ReceiverConfig) {
			c.Keys, c.Handle, c.Rejected = wire.HexKeys{Others: p.keys}, p.handle, p.reject
			if change != nil {
				change(c)
			}
		})
		run(p)
	})
}

func (p *provenInbox) handle(_ context.Context, got client.Received) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.received = append(p.received, got)
	if p.handling != nil {
		p.handling(got)
	}
	return nil
}

func (p *provenInbox) reject(_ context.Context, got client.Received, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rejected, p.reasons = append(p.rejected, got), append(p.reasons, why)
}

// taken is the handled mail, refused the rejected mail, and why.
func (p *provenInbox) taken() []client.Received   { return copied(p, &p.received) }
func (p *provenInbox) refused() []client.Received { return copied(p, &p.rejected) }
func (p *provenInbox) why() []error               { return copied(p, &p.reasons) }

func copied[T any](p *provenInbox, list *[]T) []T {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(*list)
}

// sync returns the outcome of draining the relay.
func (p *provenInbox) sync() client.Drained {
	p.Helper()
	return p.receiver.Sync(p.Context())[0]
}

func (p *provenInbox) left() int { return p.inbox.left(p.kept) }

// statuses are those of the handled mail.
func (p *provenInbox) statuses() (s []client.ProofStatus) {
	for _, got := range p.taken() {
		s = append(s, got.Proof)
	}
	return s
}

// A forger is a relay that changes its answers.
type forger struct {
	p    *provenInbox
	real http.Handler
}

func (f *forger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	serveChanged(f.real, w, r, func(body []byte) []byte {
		if f.p.forge == nil {
			return body
		}
		return changeMail(body, f.p.forge)
	})
}

// A keyBook is the keys of servers whose names are none: all have that of a.
type keyBook struct {
	broken error

	mu    sync.Mutex
	known map[spec.ServerName]bool
}

func (k *keyBook) know(server spec.ServerName, known bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.known[server] = known
}

func (k *keyBook) VerifyJSONs(_ context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.broken != nil {
		return nil, k.broken
	}
	results := make([]gomatrixserverlib.VerifyJSONResult, len(requests))
	for i, r := range requests {
		results[i].Error = fmt.Errorf("gomatrixserverlib: could not download key for %q", r.ServerName)
		if k.known[r.ServerName] {
			key := a.PrivateKey.Public().(ed25519.PublicKey)
			results[i].Error = gomatrixserverlib.VerifyJSON(string(r.ServerName), "ed25519:1", key, r.Message)
		}
	}
	return results, nil
}

var named = &relaytest.Node{SigningIdentity: a.SigningIdentity}

func init() { named.ServerName, named.KeyID = "named", "ed25519:1" }

// leaveAs leaves a body for a server at the relay.
func (p *provenInbox) leaveAs(from *relaytest.Node, to spec.ServerName, id, body string) {
	p.Helper()
	caller, err := client.NewCaller(client.CallerConfig{Identity: from.SigningIdentity, Transport: p.net})
	require.NoError(p, err)
	t := client.Transaction{ID: gomatrixserverlib.TransactionID(id), Destination: to, Body: json.RawMessage(body)}
	require.NoError(p, caller.Send(p.Context(), r1, t))
}

// sync1 syncs the mail that is there now, and not mail that is left meanwhile.
func (p *provenInbox) sync1() client.Drained {
	d := p.sync()
	d.Handled = 0
	p.received = slices.DeleteFunc(p.received, func(got client.Received) bool { return got.TransactionID == "0" })
	return d
}

func (p *provenInbox) entryOf(server spec.ServerName, id gomatrixserverlib.TransactionID) store.Entry {
	entries, err := p.kept.Next(p.Context(), server, 0, 100, 1<<20)
	require.NoError(p, err)
	at := slices.IndexFunc(entries, func(e store.Entry) bool { return e.TransactionID == id })
	return entries[at]
}
