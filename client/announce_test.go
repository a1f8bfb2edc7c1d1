package client_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// TestAnnounceIsHourly: however often relays are announced, one record an hour is signed, and
// the last that was announced holds in the end, also after a restart. Mail at a relay that
// the next record names is fetched at once.
func TestAnnounceIsHourly(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2, r3)
		alice, bob := w.node(a), w.node(b)
		bob.announce(r1)
		first := linked(w, bob.Link())
		for i := range 60 {
			require.NoError(t, bob.Announce(w.Context(), []spec.ServerName{r2, r3}[i%2]))
			time.Sleep(50 * time.Second)
		}
		require.Equal(t, first, linked(w, bob.Link()))
		require.Equal(t, []spec.ServerName{r1, r3}, bob.Relays(b.ServerName))
		w.sendRecord(a, b, r3, first.JSON())
		bob.close()
		bob.open()
		require.Equal(t, []spec.ServerName{r1, r3}, bob.Relays(b.ServerName))

		time.Sleep(11 * time.Minute)
		second := linked(w, bob.Link())
		require.Equal(t, []wire.RecordRelay{{Name: r3}}, second.Relays)
		require.Equal(t, first.Seq+1, second.Seq)
		for _, relay := range []spec.ServerName{r1, r3} {
			kept, err := caller(w.T, w.net, a).RelayRecord(w.Context(), relay, b.ServerName)
			require.NoError(t, err)
			require.Equal(t, second, kept)
		}
		_, puts := bob.askedAbout(r1)
		require.Equal(t, 2, puts)
		alice.add(bob.Link())
		alice.write(bob, "1")
		w.pass(time.Minute)
		bob.requireGot("1")
	})
}

// TestShownSoonAfterAnnouncing: a newer record of its own that a node is shown only once, while
// it may sign none, isn't forgotten, not by a restart either: it was set back, and has announced
// at once.
func TestShownSoonAfterAnnouncing(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2)
		bob := w.node(b)
		bob.announce(r1)
		newer, err := wire.SignRelayRecord(wire.RelayRecord{
			Seq: linked(w, bob.Link()).Seq + 5, Expires: uint64(time.Now().Add(80 * 24 * time.Hour).UnixMilli()),
			Relays: []wire.RecordRelay{{Name: r2}},
		}, b.SigningIdentity)
		require.NoError(t, err)
		w.sendRecord(a, b, r1, newer.JSON())
		w.pass(time.Minute)
		require.Contains(t, bob.log.String(), "that it doesn't know")
		require.Less(t, linked(w, bob.Link()).Seq, newer.Seq)
		bob.close()
		bob.open()
		time.Sleep(2 * time.Hour)
		require.Greater(t, linked(w, bob.Link()).Seq, newer.Seq)
		require.Equal(t, []spec.ServerName{r1, r2}, bob.Relays(b.ServerName))
		require.Equal(t, 1, strings.Count(bob.log.String(), "that it doesn't know"))
	})
}

// TestShownTwiceSoonAfterAnnouncing: of two newer records that are shown while none may be signed,
// the relays of both are asked for mail at once, and a note that can't be written when it is time
// to sign loses neither.
func TestShownTwiceSoonAfterAnnouncing(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2, r3)
		var faults stumbling
		w.change = func(config *client.NodeConfig) {
			faults.notedStore, config.Store = config.Store.(notedStore), &faults
		}
		bob := w.node(b)
		bob.announce(r1)
		var newer wire.RelayRecord
		for i, relay := range []spec.ServerName{r2, r3} {
			var err error
			newer, err = wire.SignRelayRecord(wire.RelayRecord{
				Seq: linked(w, bob.Link()).Seq + 5 + uint64(i), Expires: uint64(time.Now().Add(80 * 24 * time.Hour).UnixMilli()),
				Relays: []wire.RecordRelay{{Name: relay}},
			}, b.SigningIdentity)
			require.NoError(t, err)
			w.sendRecord(a, b, r1, newer.JSON())
			w.pass(time.Minute)
		}
		require.Equal(t, []spec.ServerName{r1, r2, r3}, bob.Relays(b.ServerName))
		faults.next.Store(true)
		time.Sleep(2 * time.Hour)
		require.False(t, faults.next.Load())
		require.Greater(t, linked(w, bob.Link()).Seq, newer.Seq)
		require.Equal(t, []spec.ServerName{r1, r2, r3}, bob.Relays(b.ServerName))
	})
}

// A stumbling store fails to write notes once, the next time.
type stumbling struct {
	notedStore
	next atomic.Bool
}

func (s *stumbling) SetNotes(ctx context.Context, notes []store.Note) error {
	if s.next.Swap(false) {
		return errFault
	}
	return s.notedStore.SetNotes(ctx, notes)
}

// TestAnnounceAboveShown: other relays that are announced as soon as that is possible are named by
// a record above one that was shown before, also after a restart.
func TestAnnounceAboveShown(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2, r3)
		bob := w.node(b)
		bob.announce(r1)
		newer, err := wire.SignRelayRecord(wire.RelayRecord{
			Seq: linked(w, bob.Link()).Seq + 5, Expires: uint64(time.Now().Add(80 * 24 * time.Hour).UnixMilli()),
			Relays: []wire.RecordRelay{{Name: r2}},
		}, b.SigningIdentity)
		require.NoError(t, err)
		w.sendRecord(a, b, r1, newer.JSON())
		w.pass(time.Minute)
		require.NoError(t, bob.Announce(w.Context(), r3))
		bob.close()
		time.Sleep(time.Hour)
		bob.open()
		require.NoError(t, bob.Announce(w.Context(), r3))
		time.Sleep(time.Minute)
		require.Greater(t, linked(w, bob.Link()).Seq, newer.Seq)
		require.Equal(t, []spec.ServerName{r1, r2, r3}, bob.Relays(b.ServerName))
	})
}

// TestAnnounceTheSame: announcing the same again costs nobody anything, and an announcement
// that waits is taken back by another.
func TestAnnounceTheSame(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2)
		bob := w.node(b)
		bob.announce(r1)
		first := bob.Link()
		w.pass(2 * time.Hour)
		bob.askedAbout(r1)
		for range 5 {
			require.NoError(t, bob.Announce(w.Context(), r1))
		}
		_, puts := bob.askedAbout(r1)
		require.Zero(t, puts)
		require.Equal(t, first, bob.Link())

		require.NoError(t, bob.Announce(w.Context(), r1, r2))
		second := bob.Link()
		require.NotEqual(t, first, second)
		require.NoError(t, bob.Announce(w.Context(), r2))
		require.NoError(t, bob.Announce(w.Context(), r1, r2))
		w.pass(3 * time.Hour)
		require.Equal(t, second, bob.Link())
	})
}

// TestLeaveLeavesTheRecord: a relay that was left is named no more; if there is no other, the
// record isn't signed anew, until relays are announced again.
func TestLeaveLeavesTheRecord(t *testing.T) {
	inNodeWorld(t, func(c *client.NodeConfig) {
		c.Receiver.Wait, c.Receiver.PollInterval = -1, -1
	}, func(w *nodeWorld) {
		for _, name := range []spec.ServerName{r1, r2} {
			w.ownersRelay(name, nil)
		}
		named := func() wire.RelayRecord {
			record, err := wire.ReadLink(w.node.Link())
			require.NoError(t, err)
			return record
		}
		require.NoError(t, w.node.Announce(w.Context(), r1, r2))
		require.NoError(t, w.node.Leave(w.Context(), r1, false))
		requireStatus(t, http.StatusForbidden, w.enemy(r1))
		time.Sleep(2 * time.Hour)
		require.Equal(t, []wire.RecordRelay{{Name: r2}}, named().Relays)
		require.Equal(t, []spec.ServerName{r1, r2}, w.node.Relays(a.ServerName), "mail may still be there")

		last := named()
		require.NoError(t, w.node.Leave(w.Context(), r2, false))
		w.close()
		w.open()
		w.run()
		time.Sleep(100 * 24 * time.Hour)
		require.Equal(t, last, named())
		require.False(t, last.IsFresh(time.Now()))
		require.Empty(t, w.node.Relays(a.ServerName))

		require.NoError(t, w.node.Announce(w.Context(), r2))
		require.Greater(t, named().Seq, last.Seq)
		w.leave(r2, "1")
		w.node.Online()
		time.Sleep(time.Minute)
		require.Equal(t, []string{"1"}, w.fetched())
	})
}

// TestLeaveWithoutRecord: a relay that was entered by hand is left as before.
func TestLeaveWithoutRecord(t *testing.T) {
	inNodeWorld(t, func(c *client.NodeConfig) { c.Receiver.Wait = -1 }, func(w *nodeWorld) {
		w.ownersRelay(r1, nil)
		w.setRelays(a.ServerName, r1)
		time.Sleep(time.Minute)
		require.NoError(t, w.node.Leave(w.Context(), r1, false))
		require.Empty(t, w.node.Link())
		requireStatus(t, http.StatusForbidden, w.enemy(r1))
	})
}
