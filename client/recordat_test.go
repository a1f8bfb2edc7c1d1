package client_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// placed adds a relay that no name leads to, at an address.
func (w *recordWorld) placed(name spec.ServerName, address string) {
	_, err := w.net.AddRelay(relay.Config{ServerName: name, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(w, err)
	place := spec.ServerName(strings.TrimPrefix(address, "https://"))
	w.net.Set(place, w.net.Host(name))
	w.net.SetOffline(name, true)
	w.places = map[string]spec.ServerName{address: place}
}

const addressOfR1 = "https://place.example:8448"

// TestAddressOfRecord: a relay that nobody reaches by its name has mail left and fetched at
// its address, which a record gives.
func TestAddressOfRecord(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.placed(r1, addressOfR1)
		alice, bob := w.node(a), w.node(b)
		require.Error(t, bob.Announce(w.Context(), r1))
		require.NoError(t, bob.AnnounceAt(w.Context(), wire.RecordRelay{Name: r1, At: []string{"https://nothing.example", addressOfR1}}))
		alice.add(bob.Link())
		alice.write(bob, "1")
		w.pass(time.Minute)
		bob.requireGot("1")

		for _, n := range w.nodes { // it is all on the disk
			n.close()
			n.open()
		}
		alice.write(bob, "2")
		w.pass(time.Minute)
		bob.requireGot("2")

		w.net.SetOffline(r1, false) // its name is tried again now and then
		w.net.SetOffline("place.example:8448", true)
		alice.write(bob, "3")
		w.pass(2 * time.Hour)
		bob.requireGot("3")
	})
}

// TestReceiptsAtAddress: a relay that nobody reaches by its name gives receipts at its
// address.
func TestReceiptsAtAddress(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.change = func(c *client.NodeConfig) { c.Receiver.Receipts = true }
		w.placed(r1, addressOfR1)
		alice, bob := w.node(a), w.node(b)
		require.NoError(t, bob.AnnounceAt(w.Context(), wire.RecordRelay{Name: r1, At: []string{addressOfR1}}))
		alice.add(bob.Link())
		alice.write(bob, "1")
		w.pass(time.Minute)
		bob.requireGot("1")
		w.pass(2 * time.Hour)
		status, err := alice.Status(w.Context())
		require.NoError(t, err)
		require.Empty(t, status.Destinations, "bob has handled it")
	})
}

// TestAddressMustAgree: mail goes to no address that hasn't itself shown the record, though
// the relay has by its name.
func TestAddressMustAgree(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1)
		victim := w.net.AddHomeserver("place.example:8448")
		w.places = map[string]spec.ServerName{addressOfR1: "place.example:8448"}
		alice, bob := w.node(a), w.node(b)
		require.NoError(t, bob.AnnounceAt(w.Context(), wire.RecordRelay{Name: r1, At: []string{addressOfR1}}))
		alice.add(bob.Link())
		alice.write(bob, "1")
		w.pass(time.Minute)
		bob.requireGot("1")
		w.net.SetOffline(r1, true)
		before := w.net.Asked("place.example:8448")
		for i := range 20 {
			alice.write(bob, fmt.Sprint("x", i))
			time.Sleep(time.Minute)
		}
		require.Equal(t, before, w.net.Asked("place.example:8448"))
		require.Empty(t, victim.Sent())
	})
}

// TestThousandRecords: however many records name a host, by any port, spelling and address,
// a sender asks it once an hour at most, without a body.
func TestThousandRecords(t *testing.T) {
	skipIfShort(t)
	inRecordWorld(t, func(w *recordWorld) {
		w.change = func(c *client.NodeConfig) { // so that it is over soon
			c.Outbox.Backoff, c.Sender.AttemptsBeforeOffline = client.Backoff{First: time.Hour, Most: time.Hour}, 1
		}
		const victim, place = "victim.example", "https://victim.example:7"
		w.places = map[string]spec.ServerName{place: victim, "https://VICTIM.example": victim}
		w.net.Set(victim, relaytest.Host{Handler: http.NotFoundHandler()})
		senders := []*recordNode{w.node(a), w.node(relaytest.NewNode("second"))}
		asked := make(map[*recordNode][]string)
		for _, n := range senders {
			n.divert = func(r *http.Request) *http.Request { // all ports are the victim's
				if strings.HasPrefix(strings.ToLower(r.URL.Host), victim) {
					asked[n] = append(asked[n], fmt.Sprint(r.Method, r.ContentLength))
					r = r.Clone(r.Context())
					r.URL.Host = victim
				}
				return r
			}
		}
		for i := range 1000 {
			by := relaytest.NewNode(fmt.Sprint(i))
			named := []wire.RecordRelay{{Name: spec.ServerName(fmt.Sprint(victim, ":", i+1))}}
			switch i % 3 {
			case 1:
				named[0].Name = spec.ServerName(fmt.Sprint("Victim.example.:", i+1))
			case 2:
				named[0] = wire.RecordRelay{Name: spec.ServerName(fmt.Sprint("nobody", i, ".example")), At: []string{place, "https://VICTIM.example"}}
			}
			record, err := wire.SignRelayRecord(wire.RelayRecord{Seq: 1, Relays: named}, by.SigningIdentity)
			require.NoError(t, err)
			for _, n := range senders[:1+(1000-i)/951] { // the second has some of them, too
				require.NoError(t, n.AddRecord(w.Context(), record))
				n.write(&recordNode{is: by}, "1")
			}
		}
		w.pass(3 * time.Hour)
		for _, n := range senders {
			require.GreaterOrEqual(t, len(asked[n]), 3)
			require.LessOrEqual(t, len(asked[n]), 4)
			for _, request := range asked[n] {
				require.Equal(t, "GET0", request)
			}
		}
	})
}

// TestSlowName: a name that gives no answer leaves time for the address.
func TestSlowName(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.placed(r1, addressOfR1)
		w.net.SetOffline(r1, false)
		w.net.Set(r1, relaytest.Host{Hangs: true})
		alice, bob := w.node(a), w.node(b)
		require.NoError(t, bob.AnnounceAt(w.Context(), wire.RecordRelay{Name: r1, At: []string{addressOfR1}}))
		alice.add(bob.Link())
		alice.write(bob, "1")
		w.pass(2 * time.Minute)
		bob.requireGot("1")
	})
}

// TestWithoutAddressTransport: a transport that knows no addresses isn't asked for any.
func TestWithoutAddressTransport(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.change = func(c *client.NodeConfig) { c.Transport = onlyNames{c.Transport} }
		w.placed(r1, addressOfR1)
		bob := w.node(b)
		err := bob.AnnounceAt(w.Context(), wire.RecordRelay{Name: r1, At: []string{addressOfR1}})
		require.ErrorIs(t, err, relaytest.ErrOffline)
	})
}

type onlyNames struct{ http.RoundTripper }

// TestSilentRelay: a relay that gave no answer to the first question is asked again soon,
// and at once when there is another network.
func TestSilentRelay(t *testing.T) {
	for name, back := range map[string]func(*recordWorld, *recordNode){
		"soon": func(*recordWorld, *recordNode) { time.Sleep(20 * time.Minute) },
		"at once": func(_ *recordWorld, alice *recordNode) {
			alice.Online()
			time.Sleep(10 * time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inRecordWorld(t, func(w *recordWorld) {
				w.relays(r1)
				alice, bob := w.node(a), w.node(b)
				bob.announce(r1)
				alice.add(bob.Link())
				w.net.SetOffline(r1, true)
				alice.write(bob, "1")
				time.Sleep(time.Minute)
				w.net.SetOffline(r1, false)
				back(w, alice)
				bob.Online()
				time.Sleep(time.Second)
				bob.requireGot("1")
			})
		})
	}
}

// TestSilentHost: one that never answers is asked less and less.
func TestSilentHost(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.change = func(c *client.NodeConfig) { c.Outbox.Backoff = client.Backoff{First: time.Hour, Most: time.Hour} }
		w.net.Set("victim.example", relaytest.Host{})
		alice := w.node(a)
		for i := range 10 {
			by := relaytest.NewNode(fmt.Sprint(i))
			record, err := wire.SignRelayRecord(wire.RelayRecord{Seq: 1, Relays: []wire.RecordRelay{{Name: "victim.example"}}}, by.SigningIdentity)
			require.NoError(t, err)
			require.NoError(t, alice.AddRecord(w.Context(), record))
			alice.write(&recordNode{is: by}, "1")
		}
		w.pass(24 * time.Hour)
		gets, puts := alice.askedAbout("victim.example")
		require.Zero(t, puts)
		require.LessOrEqual(t, gets, 55)
	})
}

// TestSilentAddress: however many records name a host that never answers as the address of
// other relays, it is asked less and less.
func TestSilentAddress(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.change = func(c *client.NodeConfig) { // so that it is over soon
			c.Outbox.Backoff, c.Sender.AttemptsBeforeOffline = client.Backoff{First: time.Hour, Most: time.Hour}, 1
		}
		const victim, place = "victim.example", "https://victim.example:7"
		w.places = map[string]spec.ServerName{place: victim}
		w.net.Set(victim, relaytest.Host{})
		alice := w.node(a)
		for i := range 100 {
			by := relaytest.NewNode(fmt.Sprint(i))
			named := []wire.RecordRelay{{Name: spec.ServerName(fmt.Sprint("nobody", i, ".example")), At: []string{place}}}
			record, err := wire.SignRelayRecord(wire.RelayRecord{Seq: 1, Relays: named}, by.SigningIdentity)
			require.NoError(t, err)
			require.NoError(t, alice.AddRecord(w.Context(), record))
			alice.write(&recordNode{is: by}, "1")
		}
		w.pass(3 * time.Hour)
		gets, puts := alice.askedAbout(victim)
		require.Zero(t, puts)
		require.Positive(t, gets)
		require.LessOrEqual(t, gets, 12)
	})
}
