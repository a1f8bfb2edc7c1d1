package client_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// TestNodesMeetByLink: of two nodes that have never had a relay entered by hand, one gets
// the other's link, and both exchange mail from then on. Nobody is asked before there is
// mail.
func TestNodesMeetByLink(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2)
		alice, bob := w.node(a), w.node(b)
		require.Empty(t, bob.Link())
		bob.announce(r1)
		alice.announce(r2)
		w.pass(time.Minute)
		alice.askedAbout(r1)
		alice.add(bob.Link())
		w.pass(25 * time.Hour)
		gets, puts := alice.askedAbout(r1)
		require.Zero(t, gets+puts)
		require.Empty(t, alice.Relays(b.ServerName))

		alice.write(bob, "1")
		w.pass(time.Minute)
		bob.requireGot("1")
		require.Equal(t, []spec.ServerName{r1}, alice.Relays(b.ServerName))
		bob.write(alice, "2")
		w.pass(time.Minute)
		alice.requireGot("2")

		for _, n := range w.nodes { // it is all on the disk
			n.close()
			n.open()
		}
		require.Equal(t, []spec.ServerName{r1}, alice.Relays(b.ServerName))
		require.Equal(t, []spec.ServerName{r1}, bob.Relays(b.ServerName))
		alice.write(bob, "3")
		bob.write(alice, "4")
		w.pass(time.Minute)
		bob.requireGot("3")
		alice.requireGot("4")
	})
}

// TestBothMove: both nodes change all their relays twice, one of them while it is away.
func TestBothMove(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		names := make([]spec.ServerName, 6)
		for i := range names {
			names[i] = spec.ServerName(fmt.Sprintf("relay%d.example", i))
		}
		w.relays(names...)
		alice, bob := w.node(a), w.node(b)
		alice.announce(names[0])
		bob.announce(names[1])
		alice.add(bob.Link())
		alice.write(bob, "1")
		w.pass(time.Minute)
		bob.write(alice, "2")
		w.pass(time.Minute)
		bob.requireGot("1")
		alice.requireGot("2")

		alice.Offline()
		alice.away = true
		for _, relay := range names[2:4] {
			w.pass(2 * time.Hour)
			bob.announce(relay)
		}
		bob.write(alice, "3")
		w.pass(2 * time.Hour)
		alice.away = false
		w.pass(time.Minute)
		for _, relay := range names[4:6] {
			alice.announce(relay)
			w.pass(2 * time.Hour)
		}
		alice.write(bob, "4")
		w.pass(25 * time.Hour)
		bob.write(alice, "5")
		w.pass(25 * time.Hour)
		bob.requireGot("4")
		alice.requireGot("3", "5")
		require.Equal(t, []spec.ServerName{names[3]}, alice.Relays(b.ServerName))
		require.Equal(t, []spec.ServerName{names[5]}, bob.Relays(a.ServerName))
	})
}

// TestNewsByRelaysOnly: a node that was away follows the records from each relay that was
// left to the next.
func TestNewsByRelaysOnly(t *testing.T) {
	skipIfShort(t)
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2, r3)
		alice, bob := w.node(a), w.node(b)
		bob.announce(r1)
		link := bob.Link()
		for _, relay := range []spec.ServerName{r2, r3} {
			w.pass(2 * time.Hour)
			bob.announce(relay)
		}
		alice.add(link)
		alice.write(bob, "1")
		w.pass(8 * time.Hour)
		bob.requireGot("1")
		require.Equal(t, []spec.ServerName{r3}, alice.Relays(b.ServerName))
		require.Equal(t, []spec.ServerName{r1, r2, r3}, bob.Relays(b.ServerName), "others may still leave mail there")
		alice.add(link)
		require.Equal(t, []spec.ServerName{r3}, alice.Relays(b.ServerName), "an older record changes nothing")
		w.pass(91 * 24 * time.Hour)
		require.Equal(t, []spec.ServerName{r3}, bob.Relays(b.ServerName))
	})
}

// TestRelayMustAgree: nothing is left at a relay that a record names and that doesn't show
// that record, and it is asked once an hour at most.
func TestRelayMustAgree(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1)
		home := w.net.AddHomeserver("victim.example")
		alice := w.node(a)
		var bobs []*recordNode
		for i := range 20 {
			bob := &recordNode{is: relaytest.NewNode(fmt.Sprint("bob", i)), world: w}
			record, err := wire.SignRelayRecord(wire.RelayRecord{
				Seq: 1, Expires: uint64(time.Now().Add(time.Hour).UnixMilli()),
				Relays: []wire.RecordRelay{{Name: "victim.example"}, {Name: r1}},
			}, bob.is.SigningIdentity)
			require.NoError(t, err)
			bobs = append(bobs, bob)
			alice.add(record.Link())
			alice.write(bob, "1")
		}
		w.pass(10 * time.Hour)
		gets, puts := alice.askedAbout("victim.example")
		require.Positive(t, gets)
		require.LessOrEqual(t, gets, 11)
		require.Zero(t, puts)
		require.Empty(t, home.Sent())
		for _, bob := range bobs {
			require.Empty(t, alice.Relays(bob.is.ServerName), "the other doesn't know them either")
		}
	})
}

// TestRelayThatLies: a relay that tells of newer records, and has none, is asked once an
// hour at most.
func TestRelayThatLies(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1)
		alice, bob := w.node(a), w.node(b)
		bob.announce(r1)
		alice.add(bob.Link())
		alice.write(bob, "0")
		w.pass(time.Minute)
		w.net.Set(r1, relaytest.Host{Handler: lying{w.net.Host(r1).Handler}})
		alice.askedAbout(r1)
		for i := range 60 {
			alice.write(bob, fmt.Sprint("x", i))
			w.pass(5 * time.Minute)
		}
		gets, _ := alice.askedAbout(r1)
		require.Positive(t, gets)
		require.LessOrEqual(t, gets, 6)
		require.Equal(t, []spec.ServerName{r1}, alice.Relays(b.ServerName))
	})
}

// TestRelayByHandThatWasLeft: a relay that was entered by hand takes mail for ever, and its
// owner has left it. The sender hears of that from the others, and tells its operator.
func TestRelayByHandThatWasLeft(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2, r3)
		alice, bob := w.node(a), w.node(b)
		bob.announce(r2)
		require.NoError(t, alice.SetRelays(w.Context(), b.ServerName, r1, r2))
		alice.write(bob, "1")
		w.pass(2 * time.Hour)
		bob.requireGot("1")
		require.Contains(t, alice.log.String(), "entered by hand")
		bob.announce(r3)
		alice.write(bob, "2")
		w.pass(2 * time.Hour)
		require.Equal(t, []spec.ServerName{r1, r2, r3}, alice.Relays(b.ServerName))
		require.NoError(t, alice.OnlyByHand(w.Context(), b.ServerName, true))
		alice.close()
		alice.open()
		require.Equal(t, []spec.ServerName{r1, r2}, alice.Relays(b.ServerName))
		require.NoError(t, alice.OnlyByHand(w.Context(), b.ServerName, false))
		require.Equal(t, []spec.ServerName{r1, r2, r3}, alice.Relays(b.ServerName))
		bob.requireGot("2")
	})
}

// TestSetBack: a node that is set back to before it named a relay fetches from that, too,
// after one contact, and its next record holds.
func TestSetBack(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2)
		alice, bob := w.node(a), w.node(b)
		bob.announce(r1)
		backup := bob.Link()
		w.pass(2 * time.Hour)
		restored := w.node(b)
		restored.close()
		notes, err := bob.mail.Notes(w.Context(), "", "", 1000)
		require.NoError(t, err)
		bob.announce(r1, r2)
		bob.Offline()
		bob.away = true
		alice.add(bob.Link())
		w.net.SetOffline(r1, true)
		alice.write(bob, "1")
		w.pass(time.Hour)
		require.Equal(t, []spec.ServerName{r2}, alice.Relays(b.ServerName), "the other can't be asked")
		w.net.SetOffline(r1, false)

		require.NoError(t, restored.mail.SetNotes(w.Context(), notes))
		restored.open()
		require.Equal(t, backup, restored.Link())
		w.pass(5 * time.Minute)
		restored.requireGot("1")
		require.Contains(t, restored.log.String(), "that it doesn't know")
		newest, err := wire.ReadLink(restored.Link())
		require.NoError(t, err)
		for _, relay := range []spec.ServerName{r1, r2} {
			kept, err := caller(w.T, w.net, a).RelayRecord(w.Context(), relay, b.ServerName)
			require.NoError(t, err)
			require.Equal(t, newest, kept)
		}
	})
}

// TestAnnounceWithWrongClock: nodes whose clock isn't set yet can announce, and mail
// arrives, also after the clock was set right.
func TestAnnounceWithWrongClock(t *testing.T) {
	inRecordWorldAt(t, time.Time{}, func(w *recordWorld) { // simulated time begins in 2000
		w.relays(r1, r2)
		alice, bob := w.node(a), w.node(b)
		bob.announce(r1)
		first, err := wire.ReadLink(bob.Link())
		require.NoError(t, err)
		require.EqualValues(t, 1, first.Seq)
		alice.add(bob.Link())
		alice.write(bob, "1")
		w.pass(time.Minute)
		bob.requireGot("1")

		alice.close()
		bob.close()
		time.Sleep(time.Until(recordTime))
		alice.open()
		bob.open()
		w.pass(time.Minute)
		again, err := wire.ReadLink(bob.Link())
		require.NoError(t, err)
		require.True(t, again.IsFresh(time.Now()))
		require.Equal(t, wire.NextSeq(time.Now(), 0), again.Seq)
		bob.announce(r2)
		alice.write(bob, "2")
		w.pass(2 * time.Hour)
		bob.requireGot("2")
	})
}

// TestAnnounceFails: when a relay can't be asked for mail, nothing changes.
func TestAnnounceFails(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2)
		bob := w.node(b)
		bob.announce(r1)
		link := bob.Link()
		w.net.SetOffline(r2, true)
		require.Error(t, bob.Announce(w.Context(), r1, r2))
		require.Error(t, bob.Announce(w.Context()))
		require.Error(t, bob.Announce(w.Context(), b.ServerName))
		require.Equal(t, link, bob.Link())
		require.Equal(t, []spec.ServerName{r1}, bob.Relays(b.ServerName))
		w.net.SetOffline(r2, false)
		bob.announce(r1, r2)
		require.NotEqual(t, link, bob.Link())
	})
}

// TestRecordIsBroughtLater: a relay that is down gets the record when it is back.
func TestRecordIsBroughtLater(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2)
		bob := w.node(b)
		bob.announce(r1)
		w.net.SetOffline(r1, true)
		bob.announce(r2)
		newest, err := wire.ReadLink(bob.Link())
		require.NoError(t, err)
		bob.close()
		bob.open()
		w.pass(3 * time.Hour)
		w.net.SetOffline(r1, false)
		w.pass(2 * time.Hour)
		kept, err := caller(w.T, w.net, a).RelayRecord(w.Context(), r1, b.ServerName)
		require.NoError(t, err)
		require.Equal(t, newest, kept)
		w.pass(100 * 24 * time.Hour)
		kept, err = caller(w.T, w.net, a).RelayRecord(w.Context(), r2, b.ServerName)
		require.NoError(t, err)
		require.True(t, kept.IsFresh(time.Now()), "it is signed anew in time")
		require.Error(t, bob.AddRecord(w.Context(), kept), "nobody sets this server's own relays")
	})
}

// caller makes a node's Caller.
func caller(t *testing.T, network *relaytest.Network, is *relaytest.Node) *client.Caller {
	t.Helper()
	made, err := client.NewCaller(client.CallerConfig{Identity: is.SigningIdentity, Transport: network})
	require.NoError(t, err)
	return made
}
