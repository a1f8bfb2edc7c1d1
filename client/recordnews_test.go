package client_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// TestNewsByTransaction: a server whose relays have all gone for good tells the servers that
// it writes to of the new ones itself.
func TestNewsByTransaction(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2, r3)
		alice, bob := w.node(a), w.node(b)
		alice.announce(r1)
		bob.announce(r2)
		alice.add(bob.Link())
		alice.write(bob, "1")
		w.pass(time.Minute)
		bob.write(alice, "2")
		w.pass(time.Minute)
		w.net.SetOffline(r2, true)
		bob.announce(r3)
		w.pass(time.Minute)
		alice.write(bob, "3")
		w.pass(2 * time.Hour)
		bob.requireGot("1", "3")
		alice.requireGot("2")
		require.Equal(t, []spec.ServerName{r3}, alice.Relays(b.ServerName))
	})
}

// TestFullQueueHoldsUpNoRecord: that no more can wait for one server keeps no other from
// hearing of the record.
func TestFullQueueHoldsUpNoRecord(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.change = func(c *client.NodeConfig) { c.Outbox.Limits = store.Limits{Entries: 2} }
		w.relays(r1, r2)
		alice := w.node(a)
		alice.announce(r1)
		const living = "1.example"
		dead, there := &recordNode{is: relaytest.NewNamed("0.example")}, w.net.AddHomeserver(living)
		w.net.SetOffline(living, true)
		alice.write(dead, "1")
		alice.write(&recordNode{is: relaytest.NewNamed(living)}, "1")
		w.pass(time.Minute)
		require.ErrorIs(t, alice.Enqueue(w.Context(), client.Transaction{
			ID: "2", Destination: dead.is.ServerName, Body: []byte(`{"pdus":[]}`),
		}), store.ErrFull)
		w.net.SetOffline(living, false)
		w.pass(time.Hour)
		before := len(there.Sent())
		require.Equal(t, 2, before)
		alice.announce(r2)
		w.pass(2 * time.Hour)
		require.Len(t, there.Sent(), before+1)
	})
}

// TestFloodOfRecords: any number of names that bring their records don't keep out a server
// that comes after them, and the records that are kept of them are bounded.
func TestFloodOfRecords(t *testing.T) {
	skipIfShort(t)
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1)
		alice, bob := w.node(a), w.node(b)
		bring := func(by fclient.SigningIdentity) {
			record, err := wire.SignRelayRecord(wire.RelayRecord{Seq: 1, Relays: []wire.RecordRelay{{Name: r1}}}, by)
			require.NoError(t, err)
			_, err = alice.Direct(w.Context(), by.ServerName, "1", recordBody(record.JSON()), func(context.Context) error { return nil })
			require.NoError(t, err)
		}
		for i := range 2100 {
			bring(relaytest.NewNode(fmt.Sprint(i)).SigningIdentity)
		}
		bob.announce(r1)
		w.pass(time.Minute)
		_, err := alice.Direct(w.Context(), b.ServerName, "1", recordBody(textOf(bob.Link())), func(context.Context) error { return nil })
		require.NoError(t, err)
		alice.write(bob, "1")
		w.pass(time.Minute)
		bob.requireGot("1")
		for after, n := "", 0; ; {
			notes, err := alice.mail.Notes(w.Context(), "record/", after, 1000)
			require.NoError(t, err)
			if n += len(notes); len(notes) == 0 {
				require.Positive(t, n)
				require.LessOrEqual(t, n, 2001)
				break
			}
			after = notes[len(notes)-1].Key
		}
	})
}

// countingNotes counts the writes of notes.
type countingNotes struct {
	notedStore
	writes atomic.Int64
}

func (c *countingNotes) SetNotes(ctx context.Context, notes []store.Note) error {
	c.writes.Add(1)
	return c.notedStore.SetNotes(ctx, notes)
}

// TestWritingOffline: a server that hasn't heard of the record yet costs a note once, and
// not with each transaction.
func TestWritingOffline(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		counting := &countingNotes{}
		w.change = func(c *client.NodeConfig) {
			counting.notedStore = c.Store.(notedStore)
			c.Store = counting
		}
		w.relays(r1)
		alice := w.node(a)
		alice.announce(r1)
		alice.Offline()
		alice.away = true
		w.pass(time.Minute)
		bob := &recordNode{is: b}
		alice.write(bob, "1")
		before := counting.writes.Load()
		for i := range 10 {
			alice.write(bob, fmt.Sprint("x", i))
		}
		require.Equal(t, before, counting.writes.Load())
	})
}

// sendRecord has a node's relay take a transaction of from with a record in it.
func (w *recordWorld) sendRecord(from, to *relaytest.Node, relay spec.ServerName, record []byte) {
	w.Helper()
	made := client.Transaction{ID: "record", Destination: to.ServerName, Body: recordBody(record)}
	require.NoError(w, caller(w.T, w.net, from).Send(w.Context(), relay, made))
}

func recordBody(record []byte) json.RawMessage {
	return fmt.Appendf(nil, `{"pdus":[],"edus":[{"edu_type":"org.matrixrelay.relays","content":%s}]}`, record)
}

// TestRecordsInTransactions: a server's own record is taken from a transaction, and no
// other's; a server that has lost its newest record gets it back.
func TestRecordsInTransactions(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2, r3)
		alice, bob := w.node(a), w.node(b)
		alice.announce(r1)
		bob.announce(r2)
		w.sendRecord(relaytest.NewNode("c"), a, r1, textOf(bob.Link()))
		w.pass(time.Minute)
		alice.write(bob, "1")
		w.pass(time.Hour)
		require.Empty(t, alice.Relays(b.ServerName), "it came from another server")
		older := linked(w, bob.Link())
		bob.announce(r2, r3)
		w.sendRecord(b, a, r1, textOf(bob.Link()))
		w.pass(time.Minute)
		alice.write(bob, "2")
		w.pass(time.Hour)
		require.Equal(t, []spec.ServerName{r2, r3}, alice.Relays(b.ServerName))
		bob.requireGot("1", "2")

		newest := bob.Link()
		w.pass(2 * time.Hour)
		bob.askedAbout(r2)
		w.sendRecord(b, a, r1, older.JSON())
		w.pass(time.Minute)
		require.Equal(t, newest, bob.Link(), "it knows it")
		require.Equal(t, []spec.ServerName{r2, r3}, alice.Relays(b.ServerName))
		require.NotContains(t, bob.log.String(), "doesn't know")
	})
}

// TestRecordByHand: forged records, and those of the node itself, aren't taken by hand
// either.
func TestRecordByHand(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1)
		alice, bob := w.node(a), w.node(b)
		bob.announce(r1)
		good := linked(w, bob.Link())
		forged, err := wire.ReadRelayRecord(bytes.Replace(good.JSON(), []byte(`"expires":`), []byte(`"expires":1`), 1))
		require.NoError(t, err) // it expires later
		require.ErrorIs(t, alice.AddRecord(w.Context(), forged), wire.ErrSigned)
		require.Error(t, bob.AddRecord(w.Context(), good))
		require.NoError(t, alice.AddRecord(w.Context(), good))
		require.NoError(t, alice.AddRecord(w.Context(), good))
	})
}

// TestRelayRecordCalls: a Caller takes no other record than the one that it asked for.
func TestRelayRecordCalls(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1)
		bob := w.node(b)
		bob.announce(r1)
		good := linked(w, bob.Link())
		asks := caller(w.T, w.net, a)
		got, err := asks.RelayRecord(w.Context(), r1, b.ServerName)
		require.NoError(t, err)
		require.Equal(t, good, got)
		require.NoError(t, asks.PutRelayRecord(w.Context(), r1, good))
		var e *wire.Error
		_, err = asks.RelayRecord(w.Context(), r1, a.ServerName)
		require.ErrorAs(t, err, &e)
		require.Equal(t, http.StatusNotFound, e.Status)
		w.net.Set("odd.example", relaytest.Host{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(good.JSON())
		})})
		_, err = asks.RelayRecord(w.Context(), "odd.example", a.ServerName)
		require.ErrorContains(t, err, "that of")
		require.Error(t, asks.PutRelayRecord(w.Context(), "nowhere.example", good))
	})
}

// textOf returns the record in a link.
func textOf(link string) []byte {
	text, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(link, "matrixrelay:"))
	if err != nil {
		panic(err)
	}
	return text
}

func linked(w *recordWorld, link string) wire.RelayRecord {
	w.Helper()
	record, err := wire.ReadLink(link)
	require.NoError(w, err)
	return record
}
