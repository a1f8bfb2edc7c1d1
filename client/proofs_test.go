package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

func TestProven(t *testing.T) {
	inProvenInbox(t, func(c *client.ReceiverConfig) { c.RequireProof = true }, func(p *provenInbox) {
		p.leave("1", 1, r1)
		p.leaveAs(a, nodeB, "2", `{"pdus":[{"n":2}],"x":{"ü":1e2}}`) // without an origin
		p.leaveAs(a, nodeB, "3", ` { "pdus":[{"n":3}] , "origin":"`+string(a.ServerName)+`"}`)
		p.forge = func(item *wire.Item) {
			item.TransactionID = "a lie"
			if bytes.HasPrefix(item.Transaction, []byte(`{"edus"`)) { // other spellings of the same are the same
				item.Transaction = bytes.ReplaceAll(item.Transaction, []byte(`,"`), []byte(` , "`))
			}
		}
		require.Equal(t, client.Drained{Relay: r1, Handled: 3}, p.sync())
		for i, got := range p.taken() {
			require.Equal(t, client.Proven, got.Proof)
			require.Equal(t, a.ServerName, got.Origin)
			require.EqualValues(t, fmt.Sprint(i+1), got.TransactionID, "as the origin says, not the relay")
			decoded, err := got.Decode()
			require.NoError(t, err)
			require.Equal(t, a.ServerName, decoded.Origin)
			require.Equal(t, []json.RawMessage{fmt.Appendf(nil, `{"n":%d}`, i+1)}, decoded.PDUs)
		}
		require.Equal(t, `{"origin":"`+string(a.ServerName)+`","pdus":[{"n":2}],"x":{"ü":1e2}}`, string(p.taken()[1].Body))
		require.Zero(t, p.left())
	})
}

// Where proof isn't required, mail without one is handled, and says so.
func TestProofStatuses(t *testing.T) {
	inProvenInbox(t, nil, func(p *provenInbox) {
		p.leave("1", 1, r1)
		p.leaveAs(named, nodeB, "2", `{"pdus":[{"n":2}]}`)
		p.leave("3", 3, r1)
		p.leaveAs(named, nodeB, "4", `{"pdus":[{"n":4}]}`)
		p.forge = func(item *wire.Item) {
			if item.TransactionID == "3" {
				item.Proof = nil
			}
		}
		p.handling = func(got client.Received) { p.keys.know("named", got.TransactionID == "3") }
		require.NoError(t, p.sync().Err)
		require.Equal(t, []client.ProofStatus{client.Proven, client.Unchecked, client.NoProof, client.Proven}, p.statuses())
		require.EqualValues(t, "named", p.taken()[3].Origin)
		require.Empty(t, p.refused())
	})
	inProvenInbox(t, func(c *client.ReceiverConfig) { c.Keys = nil }, func(p *provenInbox) {
		p.leave("1", 1, r1)
		p.forge = func(item *wire.Item) { item.Proof = []byte(`{"relay":"r1"}`) }
		require.NoError(t, p.sync().Err)
		require.Equal(t, []client.ProofStatus{client.NoProof}, p.statuses(), "nobody has looked")
	})
}

func TestProofIsRequired(t *testing.T) {
	inProvenInbox(t, func(c *client.ReceiverConfig) { c.RequireProof = true }, func(p *provenInbox) {
		p.leave("1", 1, r1)
		p.leave("2", 2, r1)
		p.forge = func(item *wire.Item) {
			if item.TransactionID == "1" {
				item.Proof = []byte("null")
			}
		}
		require.Equal(t, client.Drained{Relay: r1, Handled: 1, Rejected: 1}, p.sync())
		require.Len(t, p.refused(), 1)
		require.ErrorIs(t, p.why()[0], client.ErrUnproven)
		require.Equal(t, r1, p.refused()[0].Relay)
		require.Contains(t, string(p.refused()[0].Body), `"pdus":[{"n":1}]`)
		require.Zero(t, p.left(), "rejected mail is acknowledged")
	})
	deployed := &deployedRelay{name: r1, first: 1}
	inProvenInbox(t, func(c *client.ReceiverConfig) { c.RequireProof, c.Rejected = true, nil }, func(p *provenInbox) {
		p.net.Set(r1, relaytest.Host{Handler: deployed})
		p.leave("1", 1, r1)
		require.Equal(t, client.Drained{Relay: r1, Rejected: 1}, p.sync())
	})
	caller, err := client.NewCaller(client.CallerConfig{Identity: b.SigningIdentity, Transport: relaytest.NewNetwork()})
	require.NoError(t, err)
	_, err = client.NewReceiver(client.ReceiverConfig{
		Caller: caller, Peers: client.NewPeers(), RequireProof: true, Handle: func(context.Context, client.Received) error { return nil },
	})
	require.ErrorContains(t, err, "Keys")
}

// Mail that a relay forges reaches nobody, whether or not proof is required.
func TestProofsAgainstForgery(t *testing.T) {
	replace := func(old, new string) func(*provenInbox, *wire.Item) {
		return func(p *provenInbox, item *wire.Item) {
			require.Contains(p, string(item.Transaction), old)
			item.Transaction = []byte(strings.Replace(string(item.Transaction), old, new, 1))
		}
	}
	proof := func(change func(*wire.Proof)) func(*provenInbox, *wire.Item) {
		return func(p *provenInbox, item *wire.Item) {
			read, err := wire.ReadProof(item.Proof)
			require.NoError(p, err)
			change(&read)
			item.Proof = read.JSON()
		}
	}
	is := func(encoded string) func(*provenInbox, *wire.Item) {
		return func(_ *provenInbox, item *wire.Item) { item.Proof = []byte(encoded) }
	}
	for name, forge := range map[string]func(*provenInbox, *wire.Item){
		"another PDU":            replace(`"pdus":[{"n":1}]`, `"pdus":[{"n":2}]`),
		"one more PDU":           replace(`"pdus":[{"n":1}]`, `"pdus":[{"n":1},{"n":2}]`),
		"PDUs twice":             replace(`"pdus":[{"n":1}]`, `"pdus":[{"n":1}],"pdus":[{"n":2}]`),
		"no PDU":                 replace(`"pdus":[{"n":1}]`, `"pdus":[]`),
		"PDUs in another case":   replace(`"pdus":[{"n":1}]`, `"pdus":[{"n":1}],"PDUS":[{"n":2}]`),
		"another EDU":            replace(`"edu_type":"x"`, `"edu_type":"y"`),
		"an extra less":          replace(`,"extra":1`, ``),
		"one more field":         replace(`{"edus"`, `{"x":1,"edus"`),
		"another time":           replace(`"origin_server_ts":1`, `"origin_server_ts":2`),
		"another origin":         replace(string(a.ServerName), string(nodeC)),
		"no origin":              replace(`"origin":"`+string(a.ServerName)+`",`, ``),
		"an origin in the proof": proof(func(p *wire.Proof) { p.Origin = a.ServerName }),
		"another relay":          proof(func(p *wire.Proof) { p.Relay = r2 }),
		"another ID":             proof(func(p *wire.Proof) { p.URI = strings.Replace(p.URI, "/1/", "/2/", 1) }),
		"a longer URI":           proof(func(p *wire.Proof) { p.URI += "?x=1" }),
		"another user":           proof(func(p *wire.Proof) { p.URI = strings.Replace(p.URI, "user", "u", 1) }),
		"another endpoint":       proof(func(p *wire.Proof) { p.URI = "/_matrix/federation/v1/send/1" }),
		"another key":            proof(func(p *wire.Proof) { p.Key = "rsa:1" }),
		"another signature":      proof(func(p *wire.Proof) { p.Signature = "A" + p.Signature[1:] }),
		"a short signature":      proof(func(p *wire.Proof) { p.Signature = p.Signature[:20] }),
		"no signature":           proof(func(p *wire.Proof) { p.Signature = "" }),
		"an empty proof":         is(`{}`),
		"a number for a proof":   is(`7`),
		"a list for a proof":     is(`[]`),
		"a long proof":           is(`{"relay":"` + strings.Repeat("x", wire.MaxProofBytes) + `"}`),
		"an old proof": func(p *provenInbox, item *wire.Item) {
			p.leaveAs(a, nodeB, "0", `{"origin":"`+string(a.ServerName)+`","pdus":[{"n":0}]}`)
			item.Proof = p.entryOf(nodeB, "0").Proof
		},
		"another server's mail": func(p *provenInbox, item *wire.Item) {
			p.leaveAs(a, nodeC, "1", `{"origin":"`+string(a.ServerName)+`","pdus":[{"n":1}]}`)
			stolen := p.entryOf(nodeC, "1")
			item.Transaction, item.Proof = stolen.Body, stolen.Proof
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, required := range []bool{false, true} {
				inProvenInbox(t, func(c *client.ReceiverConfig) { c.RequireProof = required }, func(p *provenInbox) {
					p.leaveAs(a, nodeB, "1", `{"edus":[{"content":{},"edu_type":"x","extra":1}],"origin":"`+string(a.ServerName)+`","origin_server_ts":1,"pdus":[{"n":1}]}`)
					p.forge = func(item *wire.Item) {
						if item.TransactionID == "1" {
							forge(p, item)
						}
					}
					require.Equal(t, client.Drained{Relay: r1, Rejected: 1}, p.sync1())
					require.ErrorIs(t, p.why()[0], wire.ErrProof)
					require.Empty(t, p.taken())
				})
			}
		})
	}
}

// A forged body without an origin: the one that the proof names counts.
func TestProofsAgainstForgeryWithoutOrigin(t *testing.T) {
	for _, forge := range []func(*wire.Item){
		func(item *wire.Item) { // both name another
			item.Transaction = bytes.Replace(item.Transaction, []byte(a.ServerName), []byte(nodeC), 1)
			item.Proof = bytes.Replace(item.Proof, []byte(a.ServerName), []byte(nodeC), 2)
		},
		func(item *wire.Item) { item.Transaction = []byte(`{"pdus":[{"n":2}]}`) },
		func(item *wire.Item) {
			item.Proof = bytes.Replace(item.Proof, []byte(`,"origin":"`+string(a.ServerName)+`"`), nil, 1)
		},
		func(item *wire.Item) {
			item.Transaction = bytes.Replace(item.Transaction, []byte(a.ServerName), []byte(nodeC), 1)
		},
	} {
		inProvenInbox(t, nil, func(p *provenInbox) {
			p.leaveAs(a, nodeB, "1", `{"pdus":[{"n":1}]}`)
			p.forge = forge
			require.Equal(t, client.Drained{Relay: r1, Rejected: 1}, p.sync())
			require.ErrorIs(t, p.why()[0], wire.ErrProof)
		})
	}
}

// While an origin's key can't be had, mail that must be proven is asked for again,
// for a while, which is the same for all mail of that origin.
func TestProofsKeyPatience(t *testing.T) {
	skipIfShort(t)
	required := func(c *client.ReceiverConfig) { c.RequireProof = true }
	inProvenInbox(t, required, func(p *provenInbox) {
		p.leave("1", 1, r1)
		p.leaveAs(named, nodeB, "2", `{"pdus":[{"n":2}]}`)
		p.leave("3", 3, r1)
		stop := p.run()
		time.Sleep(client.DefaultKeyPatience / 2)
		require.Len(t, p.taken(), 2, "another origin's passes it")
		require.Equal(t, 2, p.left(), "the mail before it is acknowledged")
		p.keys.know("named", true)
		time.Sleep(client.DefaultMostBackoff)
		require.Equal(t, []client.ProofStatus{client.Proven, client.Proven, client.Proven}, p.statuses())
		require.EqualValues(t, "named", p.taken()[2].Origin)
		require.Zero(t, p.left())

		// An origin that had a key gets all the patience again.
		p.keys.know("named", false)
		p.leaveAs(named, nodeB, "4", `{"pdus":[{"n":4}]}`)
		time.Sleep(client.DefaultKeyPatience * 3 / 4)
		require.Empty(t, p.refused())
		stop()
	})
	inProvenInbox(t, required, func(p *provenInbox) {
		p.leaveAs(named, nodeB, "0", `{"pdus":[{"n":0}]}`)
		stop := p.run()
		time.Sleep(time.Second)
		for i := range 20 {
			p.leaveAs(named, nodeB, fmt.Sprint(i), fmt.Sprintf(`{"pdus":[{"n":%d}]}`, i))
		}
		p.leave("1", 1, r1)
		time.Sleep(client.DefaultKeyPatience - time.Second)
		require.Len(t, p.taken(), 1, "another origin's passes them")
		require.Empty(t, p.refused())
		require.Equal(t, 21, p.left())
		time.Sleep(client.DefaultMostBackoff + time.Second)
		require.Len(t, p.refused(), 20, "all of them, or each would hold up the mailbox for an hour")
		require.ErrorIs(t, p.why()[0], client.ErrUnproven)
		require.ErrorIs(t, p.why()[0], wire.ErrNoKey)
		require.Equal(t, client.Unchecked, p.refused()[0].Proof)
		require.Len(t, p.taken(), 1)
		require.Zero(t, p.left())

		// Later there is patience again.
		time.Sleep(24 * time.Hour)
		p.leaveAs(named, nodeB, "99", `{"pdus":[{"n":99}]}`)
		time.Sleep(client.DefaultKeyPatience / 2)
		require.Equal(t, 1, p.left())
		p.keys.know("named", true)
		time.Sleep(client.DefaultMostBackoff)
		require.Len(t, p.taken(), 2)
		stop()
	})
	// A node that syncs once a day isn't held up for ever.
	inProvenInbox(t, required, func(p *provenInbox) {
		p.leaveAs(named, nodeB, "0", `{"pdus":[{"n":0}]}`)
		require.ErrorIs(t, p.sync().Err, wire.ErrNoKey)
		time.Sleep(24 * time.Hour)
		require.Equal(t, client.Drained{Relay: r1, Rejected: 1}, p.sync())
	})
}

// While keys can't even be looked up, nothing is decided.
func TestProofsKeysBroken(t *testing.T) {
	for _, required := range []bool{false, true} {
		inProvenInbox(t, func(c *client.ReceiverConfig) { c.RequireProof = required }, func(p *provenInbox) {
			p.leave("1", 1, r1)
			p.leaveAs(named, nodeB, "2", `{"pdus":[{"n":2}]}`)
			p.leave("3", 3, r1)
			p.keys.broken = errors.New("the key database is away")
			for range 3 {
				require.ErrorIs(t, p.sync().Err, p.keys.broken)
				require.Equal(t, 2, p.left())
				time.Sleep(2 * client.DefaultKeyPatience)
			}
			p.keys.broken = nil
			p.keys.know("named", true)
			require.Equal(t, client.Drained{Relay: r1, Handled: 2}, p.sync())
			require.Empty(t, p.refused())
		})
	}
}

// A relay that brings back mail that was handled long ago, and forgotten.
func TestProofsMaxAge(t *testing.T) {
	for _, c := range []struct {
		maxAge time.Duration
		want   client.Drained
	}{
		{0, client.Drained{Relay: r1, Handled: 1}},
		{25 * time.Hour, client.Drained{Relay: r1, Handled: 1}},
		{23 * time.Hour, client.Drained{Relay: r1, Rejected: 1}},
	} {
		inProvenInbox(t, func(r *client.ReceiverConfig) { r.MaxAge, r.History = c.maxAge, client.NewHistory(1) }, func(p *provenInbox) {
			p.leave("1", 1, r1)
			old := p.entryOf(nodeB, "1")
			p.leave("2", 2, r1)
			require.Equal(t, client.Drained{Relay: r1, Handled: 2}, p.sync())
			time.Sleep(24 * time.Hour)
			p.leave("3", 3, r1)
			p.forge = func(item *wire.Item) { item.Transaction, item.Proof = old.Body, old.Proof }
			require.Equal(t, c.want, p.sync())
			if c.want.Rejected > 0 {
				require.ErrorIs(t, p.why()[0], client.ErrTooOld)
				require.Equal(t, client.Proven, p.refused()[0].Proof)
				require.Equal(t, a.ServerName, p.refused()[0].Origin)
				require.Zero(t, p.left())
			}
		})
	}
	inProvenInbox(t, func(r *client.ReceiverConfig) { r.MaxAge = time.Hour }, func(p *provenInbox) {
		p.leaveAs(a, nodeB, "1", `{"pdus":[{"n":1}]}`) // no time: as old as can be
		time.Sleep(client.DefaultKeyPatience)
		require.Equal(t, client.Drained{Relay: r1, Rejected: 1}, p.sync())
	})
}

// Mail that Run waited for and Sync has got meanwhile is dealt with once.
func TestProofsRejectedOnce(t *testing.T) {
	inProvenInbox(t, func(c *client.ReceiverConfig) { c.RequireProof = true }, func(p *provenInbox) {
		p.forge = func(item *wire.Item) { item.Proof = nil }
		stop := p.run()
		time.Sleep(time.Second)
		left := make(chan struct{})
		go func() {
			defer close(left)
			p.leave("1", 1, r1)
		}()
		time.Sleep(5 * time.Millisecond)
		require.Equal(t, client.Drained{Relay: r1, Rejected: 1}, p.sync())
		<-left
		time.Sleep(time.Second)
		require.Len(t, p.refused(), 1)
		p.leave("2", 2, r1)
		time.Sleep(time.Second)
		require.Len(t, p.refused(), 2)
		stop()
	})
}
