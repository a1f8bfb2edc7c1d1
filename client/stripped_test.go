package client_test

import (
	"context"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/wire"
)

// inStripped is a provenInbox whose relay r1 strips proofs, and r3 too. Relay r2
// is honest. Proof isn't required.
func inStripped(t *testing.T, run func(*provenInbox)) {
	inProvenInbox(t, nil, func(p *provenInbox) {
		p.relay(r2)
		p.relay(r3)
		strips := func(item *wire.Item) { item.Proof = nil }
		p.forge = strips
		real := p.net.Host(r3)
		real.Handler = &forger{p, real.Handler}
		p.net.Set(r3, real)
		p.notes(nil)
		run(p)
	})
}

// notes starts b anew with a History that is kept.
func (p *provenInbox) notes(change func(*client.ReceiverConfig)) {
	p.Helper()
	history, err := client.OpenHistory(p.Context(), p.mail, 0)
	require.NoError(p, err)
	before := p.change
	p.change = func(c *client.CallerConfig, r *client.ReceiverConfig) {
		before(c, r)
		if change != nil {
			change(r)
		}
	}
	p.start(history)
	p.change = before
}

// from fetches from one relay alone.
func (p *provenInbox) from(relay spec.ServerName) client.Drained {
	p.Helper()
	require.NoError(p, p.peers.RemoveRelays(p.Context(), nodeB, r1, r2, r3))
	require.NoError(p, p.peers.AddRelays(p.Context(), nodeB, relay))
	d := p.sync()
	require.NoError(p, d.Err)
	d.Relay = ""
	return d
}

func (p *provenInbox) directly(id gomatrixserverlib.TransactionID, body string) (handled bool) {
	p.Helper()
	handled, err := p.receiver.Direct(p.Context(), a.ServerName, id, []byte(body), func(context.Context) error { return nil })
	require.NoError(p, err)
	return handled
}

var (
	one     = client.Drained{Handled: 1}
	dropped = client.Drained{Copies: 1}
)

// One without its proof doesn't make the proven one a copy. After that, all are.
func TestStrippedProof(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		inStripped(t, func(p *provenInbox) {
			again := func() {
				if restarts {
					p.notes(nil)
				}
			}
			p.leave("1", "m.direct_to_device", r1, r2, r3)
			require.Equal(t, one, p.from(r1))
			again()
			require.Equal(t, dropped, p.from(r3), "as unproven as the first")
			again()
			require.Equal(t, one, p.from(r2))
			require.Equal(t, []client.ProofStatus{client.NoProof, client.Proven}, p.statuses())
			again()
			body := string(p.taken()[1].Body)
			require.False(t, p.directly("1", body))
			again()
			require.True(t, p.directly("2", body), "alike, and another")
		})
		inStripped(t, func(p *provenInbox) {
			p.leave("1", 1, r1, r2, r3)
			require.Equal(t, one, p.from(r2))
			if restarts {
				p.notes(nil)
			}
			require.Equal(t, dropped, p.from(r1))
			require.Equal(t, dropped, p.from(r3))
			require.Equal(t, []client.ProofStatus{client.Proven}, p.statuses())
		})
	}
}

// Mail that comes directly is as good as proven.
func TestStrippedProofAndDirect(t *testing.T) {
	inStripped(t, func(p *provenInbox) {
		p.leave("1", 1, r1, r2, r3)
		require.Equal(t, one, p.from(r1))
		body := string(p.taken()[0].Body)
		require.True(t, p.directly("1", body))
		require.False(t, p.directly("1", body))
		require.Equal(t, dropped, p.from(r2))
		require.Equal(t, dropped, p.from(r3))
	})
	inStripped(t, func(p *provenInbox) { // the relay's word on its ID doesn't count
		p.leave("1", 1, r1)
		p.forge = func(item *wire.Item) { item.Proof, item.TransactionID = nil, "2" }
		require.Equal(t, one, p.from(r1))
		body := string(p.taken()[0].Body)
		require.True(t, p.directly("1", body))
		require.True(t, p.directly("2", body))
	})
}

// Those that are alike are told apart with and without proof.
func TestStrippedProofsOfTheAlike(t *testing.T) {
	inStripped(t, func(p *provenInbox) {
		p.leave("1", "typing", r1, r2, r3)
		p.leave("2", "typing", r1, r2, r3)
		two, copies := client.Drained{Handled: 2}, client.Drained{Copies: 2}
		require.Equal(t, two, p.from(r1))
		p.leave("3", "typing", r2)
		require.Equal(t, client.Drained{Handled: 3}, p.from(r2))
		require.Equal(t, copies, p.from(r3))
		p.leave("3", "typing", r3)
		require.Equal(t, dropped, p.from(r3))
		p.leave("4", "typing", r3)
		require.Equal(t, one, p.from(r3))
		p.leave("4", "typing", r2)
		require.Equal(t, one, p.from(r2))
		p.forge = func(item *wire.Item) { item.Proof, item.TransactionID = nil, "" } // as deployed relays do
		p.leave("5", "typing", r1)
		require.Equal(t, dropped, p.from(r1), "which of the four it is, nobody knows; r1 has brought two")
	})
}

// The same entry comes again with its proof when the origin's key can be had.
func TestUncheckedProofComesAgain(t *testing.T) {
	inProvenInbox(t, nil, func(p *provenInbox) {
		p.leaveAs(named, nodeB, "1", `{"pdus":[{"n":1}]}`)
		real := p.net.Host(r1)
		faulty, asked := real, 0
		faulty.Lose = func() (bool, bool) { asked++; return asked == 2, false } // the acknowledgement
		p.net.Set(r1, faulty)
		require.Error(t, p.sync().Err)
		p.net.Set(r1, real)
		p.keys.know("named", true)
		require.Equal(t, client.Drained{Relay: r1, Handled: 1}, p.sync())
		require.Equal(t, []client.ProofStatus{client.Unchecked, client.Proven}, p.statuses())
	})
}

// Where proofs aren't checked nothing is proven, and all is as good as it gets; so
// are the notes from before there were two kinds.
func TestNoProofsChecked(t *testing.T) {
	inStripped(t, func(p *provenInbox) {
		p.notes(func(c *client.ReceiverConfig) { c.Keys = nil })
		p.leave("1", 1, r1, r2, r3)
		require.Equal(t, one, p.from(r1))
		require.Equal(t, dropped, p.from(r2))
		require.False(t, p.directly("1", string(p.taken()[0].Body)))
		notes, err := p.mail.Notes(t.Context(), "seen/", "", 10)
		require.NoError(t, err)
		require.Len(t, notes, 1)
		require.Regexp(t, `^\{"s":2,"n":1,"i":\[\d+\],"k":1,"f":\{"r1":\{"n":1,"e":\d+\},"r2":\{"n":1,"e":\d+\}\}\}$`, string(notes[0].Value))
		p.notes(nil)
		require.Equal(t, dropped, p.from(r3), "it was handled before proofs were checked")
		p.leave("1", 1, r2)
		p.relay(r2) // a new one
		p.leave("1", 1, r2)
		require.Equal(t, client.Drained{Copies: 1}, p.from(r2))
	})
}
