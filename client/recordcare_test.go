package client_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// TestRelayThatLostTheRecord: a relay that has lost its store gets the record again, so
// that others leave mail there.
func TestRelayThatLostTheRecord(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1)
		alice, bob := w.node(a), w.node(b)
		bob.announce(r1)
		alice.add(bob.Link())
		alice.write(bob, "1")
		w.pass(time.Minute)
		bob.requireGot("1")
		w.relays(r1) // which knows nothing
		w.pass(26 * time.Hour)
		alice.write(bob, "2")
		w.pass(2 * time.Hour)
		bob.requireGot("2")
		require.Equal(t, []spec.ServerName{r1}, alice.Relays(b.ServerName))
		bob.askedAbout(r1)
		w.pass(96 * time.Hour)
		gets, puts := bob.askedAbout(r1)
		require.LessOrEqual(t, gets, 4)
		require.Zero(t, puts, "it has it")
	})
}

// TestSetBackWithoutNetwork: a node that was set back looks for its newest record as soon
// as there is a network.
func TestSetBackWithoutNetwork(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2)
		alice, bob := w.node(a), w.node(b)
		bob.announce(r1)
		notes, err := bob.mail.Notes(w.Context(), "", "", 1000)
		require.NoError(t, err)
		bob.announce(r1, r2)
		bob.Offline()
		bob.away = true
		alice.add(bob.Link())
		w.net.SetOffline(r1, true)
		alice.write(bob, "1")
		w.pass(time.Hour)
		w.net.SetOffline(r2, true)

		restored := w.restored(b, notes)
		w.pass(5 * time.Minute)
		w.net.SetOffline(r1, false)
		w.net.SetOffline(r2, false)
		w.pass(5 * time.Minute)
		w.pass(time.Minute)
		restored.requireGot("1")
	})
}

// TestCloseDuringAnnounce: Close and Offline don't wait for a relay that never answers.
func TestCloseDuringAnnounce(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.change = func(c *client.NodeConfig) { c.Caller.Timeout = -1 }
		w.relays(r1)
		w.net.Set(r2, relaytest.Host{Hangs: true})
		bob := w.node(b)
		bob.announce(r1)
		announced := make(chan error, 1)
		go func() { announced <- bob.Announce(context.Background(), r1, r2) }()
		w.pass(2 * time.Hour)
		start := time.Now()
		bob.close()
		require.ErrorIs(t, <-announced, context.Canceled)
		require.Zero(t, time.Since(start))
	})
}

// TestRelayGoneForGood: a relay that was left and never comes back isn't asked for ever.
func TestRelayGoneForGood(t *testing.T) {
	skipIfShort(t)
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2)
		bob := w.node(b)
		bob.announce(r1)
		w.net.SetOffline(r1, true)
		bob.announce(r2)
		w.pass(100 * 24 * time.Hour)
		require.Equal(t, []spec.ServerName{r2}, bob.Relays(b.ServerName))
		bob.askedAbout(r1)
		w.pass(48 * time.Hour)
		gets, puts := bob.askedAbout(r1)
		require.Zero(t, gets+puts)
	})
}

// TestOddAnswersToRecords: a server that answers unknown paths in another way than with
// 404 isn't brought the record again and again.
func TestOddAnswersToRecords(t *testing.T) {
	for _, status := range []int{200, 400, 405, 501} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			inRecordWorld(t, func(w *recordWorld) {
				w.relays(r1)
				odd := oddPaths{status, w.net.Host(r1).Handler}
				w.net.Set(r1, relaytest.Host{Handler: odd})
				bob := w.node(b)
				bob.announce(r1)
				w.pass(72 * time.Hour)
				gets, puts := bob.askedAbout(r1)
				require.LessOrEqual(t, gets, 4)
				require.Equal(t, 1, puts)
			})
		})
	}
}

// oddPaths answers paths of ours with a page.
type oddPaths struct {
	status int
	http.Handler
}

func (o oddPaths) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, wire.Unstable) {
		w.WriteHeader(o.status)
		_, _ = w.Write([]byte("<html>"))
		return
	}
	o.Handler.ServeHTTP(w, r)
}

// TestClockInTheFuture: a node whose clock was wrong for a while goes on fetching from a
// relay that it has left.
func TestClockInTheFuture(t *testing.T) {
	var notes []store.Note
	keep := func(w *recordWorld, n *recordNode) {
		var err error
		notes, err = n.mail.Notes(w.Context(), "", "", 1000)
		require.NoError(w, err)
	}
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2)
		bob := w.node(b)
		bob.announce(r1)
		bob.announce(r2)
		keep(w, bob)
	})
	later := func(start time.Time) {
		inRecordWorldAt(t, start, func(w *recordWorld) {
			w.relays(r1, r2)
			bob := w.restored(b, notes)
			w.pass(time.Hour)
			keep(w, bob)
			if start.Equal(recordTime) {
				require.Equal(t, []spec.ServerName{r1, r2}, bob.Relays(b.ServerName))
			}
		})
	}
	later(time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC))
	later(recordTime)
}

// restored opens and runs a Node with those notes.
func (w *recordWorld) restored(is *relaytest.Node, notes []store.Note) *recordNode {
	n := &recordNode{world: w, is: is, mail: memory.New(memory.Options{})}
	require.NoError(w, n.mail.SetNotes(w.Context(), notes))
	w.nodes = append(w.nodes, n)
	n.open()
	return n
}

// TestOwedWhenOnline: a relay that couldn't be reached gets the record at once when there
// is a network.
func TestOwedWhenOnline(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2)
		bob := w.node(b)
		bob.announce(r1)
		w.net.SetOffline(r1, true)
		bob.announce(r2)
		w.pass(5 * time.Hour)
		w.net.SetOffline(r1, false)
		bob.Online()
		time.Sleep(time.Second)
		kept, err := caller(w.T, w.net, a).RelayRecord(w.Context(), r1, b.ServerName)
		require.NoError(t, err)
		require.True(t, kept.Names(r2))
	})
}

// TestLeftBeforeTheClockWasSet: a node goes on fetching from a relay that it left while its
// clock was not set: others may still leave mail there.
func TestLeftBeforeTheClockWasSet(t *testing.T) {
	skipIfShort(t)
	inRecordWorldAt(t, time.Time{}, func(w *recordWorld) { // simulated time begins in 2000
		w.relays(r1, r2)
		bob := w.node(b)
		bob.announce(r1)
		w.net.SetOffline(r1, true)
		bob.announce(r2)
		bob.close()
		time.Sleep(time.Until(recordTime))
		bob.open()
		w.pass(time.Hour)
		require.Equal(t, []spec.ServerName{r1, r2}, bob.Relays(b.ServerName))
		w.pass(92 * 24 * time.Hour)
		w.pass(time.Hour)
		require.Equal(t, []spec.ServerName{r2}, bob.Relays(b.ServerName))
	})
}

// TestRecordAfterNewIdentity: a node that gets another key signs its record anew, and the
// record of another server, to which the store belonged, isn't its own.
func TestRecordAfterNewIdentity(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1)
		bob := w.node(b)
		bob.announce(r1)
		before := linked(w, bob.Link())
		notes, err := bob.mail.Notes(w.Context(), "", "", 1000)
		require.NoError(t, err)
		require.Empty(t, w.restored(a, notes).Link())

		bob.close()
		w.change = func(c *client.NodeConfig) { c.Identity.KeyID = "ed25519:new" }
		bob.open()
		w.pass(time.Minute)
		after := linked(w, bob.Link())
		require.True(t, before.Precedes(&after))
		require.Contains(t, string(after.JSON()), "ed25519:new")
		w.pass(5 * time.Hour)
		require.Equal(t, after, linked(w, bob.Link()))
	})
}
