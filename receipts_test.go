package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/store/sqlite"
	"github.com/matrixrelay/relay/wire"
)

// call makes a signed request to the relay, with a body if content isn't nil.
func (r *rig) call(method string, signer *relaytest.Node, uri string, content any) (status int, body string) {
	r.Helper()
	request, err := signer.Request(method, relayName, uri, content)
	require.NoError(r, err)
	return r.do(request)
}

// next asks for b's mail with a query.
func (r *rig) next(query wire.Query, fetch wire.Fetch) wire.Answer {
	r.Helper()
	status, body := r.call(http.MethodGet, r.b, wire.RelayTxnURI(relaytest.User(r.b.ServerName))+query.Encode(), fetch)
	require.Equal(r, http.StatusOK, status, body)
	answer, err := wire.ReadList([]byte(body))
	require.NoError(r, err)
	return answer
}

// listed are b's entries, all of them.
func (r *rig) listed() []wire.Answer {
	r.Helper()
	answer := r.next(wire.Query{Limit: 500, List: true}, wire.Fetch{})
	if !answer.EntriesQueued {
		return nil
	}
	return append([]wire.Answer{answer}, answer.More...)
}

func listedIDs(entries []wire.Answer) (ids []int64) {
	for _, entry := range entries {
		ids = append(ids, entry.EntryID)
	}
	return ids
}

// receiptFor is a receipt of by's for entries of one origin.
func receiptFor(t testing.TB, by *relaytest.Node, entries ...wire.Answer) wire.Receipt {
	t.Helper()
	var items []wire.ReceiptItem
	for _, entry := range entries {
		items = append(items, wire.ReceiptItem{TransactionID: entry.TransactionID, Digest: entry.Digest})
	}
	return receiptOf(t, by, entries[0].Origin, items...)
}

func receiptOf(t testing.TB, by *relaytest.Node, origin spec.ServerName, items ...wire.ReceiptItem) wire.Receipt {
	t.Helper()
	receipts, err := wire.SignReceipts(origin, items, time.Now(), by.SigningIdentity)
	require.NoError(t, err)
	require.Len(t, receipts, 1)
	return receipts[0]
}

// bringReceipts makes a PUT of receipts and returns how many entries were removed.
func (r *rig) bringReceipts(signer *relaytest.Node, receipts ...wire.Receipt) (cleared int) {
	r.Helper()
	status, body := r.call(http.MethodPut, signer, wire.ReceiptsURI, wire.ReceiptsBody{Receipts: receipts})
	require.Equal(r, http.StatusOK, status, body)
	return wire.Cleared([]byte(body))
}

// given are the receipts that b has given a node.
func (r *rig) given(to *relaytest.Node, after int64) ([]wire.Receipt, int64) {
	r.Helper()
	status, body := r.call(http.MethodGet, to, wire.AskReceiptsURI(r.b.ServerName, after), nil)
	require.Equal(r, http.StatusOK, status, body)
	receipts, next, ok := wire.ReadNewReceipts([]byte(body))
	require.True(r, ok, body)
	return receipts, next
}

// noteBytes is how much the store holds about receipts.
func noteBytes(t testing.TB, s store.Store, prefix string) (size int) {
	t.Helper()
	list, err := s.(store.Notes).Notes(context.Background(), prefix, "", 100_000)
	require.NoError(t, err)
	for _, note := range list {
		size += len(note.Key) + len(note.Value)
	}
	return size
}

// TestReceiptsReachSender: a receipt of the destination comes to the sender, and to
// nobody else, as often as it asks.
func TestReceiptsReachSender(t *testing.T) {
	r := newRig(t, nil)
	ids := r.fill(3, 100)
	require.NoError(t, r.send(r.c, r.c.Transaction(r.b.ServerName, "c", 1, 10)))
	entries := r.listed()
	require.Len(t, entries, 4)
	answer := r.next(wire.Query{Limit: 50}, wire.Fetch{})
	require.True(t, answer.Receipts)
	_, body := r.ask(r.b, r.b.ServerName, `{"entry_id":0}`)
	require.NotContains(t, body, "receipts", "deployed nodes don't know it")

	first, second := receiptFor(t, r.b, entries[0]), receiptFor(t, r.b, entries[1:3]...)
	answer = r.next(wire.Query{Limit: 50}, wire.Fetch{EntryID: ids[0], Receipts: []wire.Receipt{first}})
	require.Equal(t, ids[1], answer.EntryID)
	receipts, next := r.given(r.a, 0)
	require.Equal(t, []wire.Receipt{first}, receipts)
	answer = r.next(wire.Query{Limit: 50}, wire.Fetch{EntryID: entries[3].EntryID, Receipts: []wire.Receipt{second, receiptFor(t, r.b, entries[3])}})
	require.False(t, answer.EntriesQueued)
	require.True(t, answer.Receipts)

	receipts, last := r.given(r.a, next)
	require.Equal(t, []wire.Receipt{second}, receipts)
	require.Greater(t, last, next)
	uri := wire.SendRelayURI("later", relaytest.User(r.b.ServerName))
	for range 2 { // showing uses nothing up
		status, body := r.call(http.MethodPut, r.a, uri+wire.ReceiptsQuery(0), json.RawMessage(`{"pdus":[]}`))
		require.Equal(t, http.StatusOK, status, body)
		receipts, again, ok := wire.ReadNewReceipts([]byte(body))
		require.True(t, ok)
		require.Equal(t, []wire.Receipt{first, second}, receipts)
		require.Equal(t, last, again)
	}
	status, body := r.call(http.MethodPut, r.a, uri+wire.ReceiptsQuery(last), json.RawMessage(`{"pdus":[]}`))
	require.Equal(t, http.StatusOK, status)
	require.JSONEq(t, fmt.Sprintf(`{"receipts":[],"receipts_next":%d}`, last), body)
	status, body = r.call(http.MethodPut, r.a, uri, json.RawMessage(`{"pdus":[]}`))
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, `{}`, body, "it wasn't asked")
	receipts, _ = r.given(r.c, 0)
	require.Len(t, receipts, 1)
	require.Equal(t, r.c.ServerName, receipts[0].Origin)
	receipts, _ = r.given(relaytest.NewNode("d"), 0)
	require.Empty(t, receipts)
}

// receiptStores are stores that are in this module.
func receiptStores(t *testing.T) map[string]store.Store {
	file, err := sqlite.Open(filepath.Join(t.TempDir(), "relay.db"), sqlite.Options{})
	require.NoError(t, err)
	return map[string]store.Store{"memory": memory.New(memory.Options{}), "sqlite": file}
}

type wholeStore interface {
	store.Store
	store.Notes
	store.Managed
	store.Timed
}

// unclosed is a store that somebody else closes.
type unclosed struct{ wholeStore }

func (unclosed) Close() error { return nil }

// TestReceiptsClear: anybody's PUT removes just the mail that a receipt is for, and an entry
// that was removed still acknowledges those before it and none behind it, after a restart
// of the relay too.
func TestReceiptsClear(t *testing.T) {
	for name, s := range receiptStores(t) {
		r := newRig(t, func(c *relay.Config) { c.Store = s })
		ids := r.fill(6, 100)
		entries := r.listed()
		require.Equal(t, 2, r.bringReceipts(r.c, receiptFor(t, r.b, entries[3], entries[5])), name)
		require.Equal(t, []int64{ids[0], ids[1], ids[2], ids[4]}, listedIDs(r.listed()))
		receipts, _ := r.given(r.a, 0)
		require.Len(t, receipts, 1, "it is kept, whoever brought it")
		require.EqualValues(t, 2, r.server.Activity().Report().Hour.Sum().Acknowledged)

		again := newRig(t, func(c *relay.Config) { c.Store = unclosed{s.(wholeStore)} })
		again.peek(again.b, 7)
		again.peek(again.b, ids[5]+1)
		require.Equal(t, []int64{ids[0], ids[1], ids[2], ids[4]}, listedIDs(r.listed()), "made up")
		require.Equal(t, ids[4], again.peek(again.b, ids[3]).EntryID, name)
		require.Equal(t, []int64{ids[4]}, listedIDs(r.listed()))
		require.Equal(t, ids[4], r.peek(r.b, ids[3]).EntryID)
		require.False(t, r.peek(r.b, ids[5]).EntriesQueued, name)
		require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "new", 1, 10)))
		require.True(t, r.peek(r.b, ids[5]).EntriesQueued)

		// Its origin has the receipt that it brings.
		before := noteBytes(t, s, "relay/receipt")
		require.Equal(t, 1, r.bringReceipts(r.a, receiptFor(t, r.b, r.listed()...)))
		require.Equal(t, before, noteBytes(t, s, "relay/receipt"))
	}
}

// TestReceiptsAheadOfAcknowledgement: a receipt in a request for mail also removes what is
// behind the entry that it acknowledges.
func TestReceiptsAheadOfAcknowledgement(t *testing.T) {
	r := newRig(t, nil)
	ids := r.fill(4, 100)
	entries := r.listed()
	receipt := receiptFor(t, r.b, entries[0], entries[1], entries[3])
	answer := r.next(wire.Query{Limit: 5}, wire.Fetch{EntryID: ids[0], Receipts: []wire.Receipt{receipt}})
	require.Equal(t, ids[2], answer.EntryID)
	require.Empty(t, answer.More)
	receipts, next := r.given(r.a, 0)
	require.Equal(t, []wire.Receipt{receipt}, receipts)
	for range 2 { // replayed
		r.next(wire.Query{Limit: 5}, wire.Fetch{EntryID: ids[0], Receipts: []wire.Receipt{receipt}})
	}
	_, last := r.given(r.a, 0)
	require.Equal(t, next, last)
	require.False(t, r.next(wire.Query{Limit: 5}, wire.Fetch{EntryID: ids[3]}).EntriesQueued)
}

// TestReceiptsAtOnce: of the same receipt that comes many times at once, one is kept, and each
// entry is counted once.
func TestReceiptsAtOnce(t *testing.T) {
	for name, s := range receiptStores(t) {
		r := newRig(t, func(c *relay.Config) { c.Store = s })
		r.fill(4, 100)
		receipt := receiptFor(t, r.b, r.listed()...)
		var together sync.WaitGroup
		cleared := make([]int, 8)
		for i := range cleared {
			together.Go(func() {
				if i%2 == 0 {
					cleared[i] = r.bringReceipts(r.c, receipt)
				} else {
					r.next(wire.Query{Limit: 5}, wire.Fetch{Receipts: []wire.Receipt{receipt}})
				}
			})
		}
		together.Wait()
		sum := 0
		for _, n := range cleared {
			sum += n
		}
		require.Contains(t, []int{0, 4}, sum, name)
		receipts, _ := r.given(r.a, 0)
		require.Equal(t, []wire.Receipt{receipt}, receipts, name)
		require.Empty(t, r.listed())
	}
}
