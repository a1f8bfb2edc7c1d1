package relay_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/policy"
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

// TestReceiptsReachSender: what the destination has signed comes to the sender, and to
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

// TestWrongReceipts: nothing but a receipt of the destination, for just that mail of that
// origin, removes any or is kept.
func TestWrongReceipts(t *testing.T) {
	r := newRig(t, nil)
	ids := r.fill(3, 100)
	require.NoError(t, r.send(r.a, r.a.Transaction(r.c.ServerName, "t0", 1, 100)))
	entries := r.listed()
	good := receiptFor(t, r.b, entries...)
	other, forged := entries[0], bytes.Replace(good.JSON(), []byte(`["t0"`), []byte(`["t9"`), 1)
	other.Digest[0]++
	renamed := entries[0]
	renamed.TransactionID = "t00"
	unrelated := entries[0]
	unrelated.Origin = r.c.ServerName
	before := noteBytes(t, r.store, "relay/")
	for name, receipts := range map[string][]wire.Receipt{
		"other content":         {receiptFor(t, r.b, other)},
		"another ID":            {receiptFor(t, r.b, renamed)},
		"another origin":        {receiptFor(t, r.b, unrelated)},
		"another destination":   {receiptFor(t, r.a, entries...), receiptFor(t, relaytest.NewNode("d"), entries...)},
		"no mail, wrong key":    {receiptWithKey(t, relaytest.NewNode("d"), r.c)},
		"none":                  {},
		"of the other mailbox":  {receiptFor(t, r.c, renamed)},
		"the same content only": {receiptFor(t, r.b, wire.Answer{Origin: r.a.ServerName, TransactionID: "t1", Digest: entries[0].Digest})},
	} {
		require.Zero(t, r.bringReceipts(r.b, receipts...), name)
	}
	hundred := make([]wire.ReceiptItem, 100)
	for i := range hundred {
		hundred[i].TransactionID = gomatrixserverlib.TransactionID(fmt.Sprint("made up", i))
	}
	require.Zero(t, r.bringReceipts(r.b, receiptOf(t, r.b, r.a.ServerName, hundred...)))
	nine := wire.ReceiptsBody{Receipts: []wire.Receipt{good, good, good, good, good, good, good, good, good}}
	for name, c := range map[string]struct {
		content any
		status  int
		code    string
	}{
		"forged":       {json.RawMessage(`{"receipts":[` + string(forged) + `]}`), http.StatusForbidden, "M_FORBIDDEN"},
		"wrong key":    {wire.ReceiptsBody{Receipts: []wire.Receipt{receiptWithKey(t, r.b, r.c)}}, http.StatusForbidden, "M_FORBIDDEN"},
		"one forged":   {json.RawMessage(`{"receipts":[` + string(good.JSON()) + `,` + string(forged) + `]}`), http.StatusForbidden, "M_FORBIDDEN"},
		"no receipt":   {json.RawMessage(`{"receipts":[{}]}`), http.StatusBadRequest, "M_BAD_JSON"},
		"too many":     {nine, http.StatusBadRequest, "M_BAD_JSON"},
		"a field more": {json.RawMessage(strings.Replace(`{"receipts":[`+string(good.JSON())+`]}`, `[{`, `[{"x":1,`, 1)), http.StatusBadRequest, "M_BAD_JSON"},
		"huge":         {json.RawMessage(`{"x":"` + strings.Repeat("x", wire.MaxFetchBytes) + `"}`), http.StatusRequestEntityTooLarge, "M_TOO_LARGE"},
	} {
		status, body := r.call(http.MethodPut, r.b, wire.ReceiptsURI, c.content)
		require.Equal(t, c.status, status, "%s: %s", name, body)
		requireError(t, c.status, c.code, status, body)
		status, body = r.call(http.MethodGet, r.b, wire.RelayTxnURI(relaytest.User(r.b.ServerName))+"?limit=5", c.content)
		requireError(t, c.status, c.code, status, body)
	}
	theirs := wire.Fetch{EntryID: ids[0], Receipts: []wire.Receipt{receiptFor(t, r.c, entries[0])}}
	status, body := r.call(http.MethodGet, r.b, wire.RelayTxnURI(relaytest.User(r.b.ServerName)), theirs)
	requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
	require.Equal(t, ids, listedIDs(r.listed()), "nothing was acknowledged")
	require.Equal(t, before, noteBytes(t, r.store, "relay/"), "0 bytes were kept")

	require.Equal(t, 3, r.bringReceipts(r.c, good))
	before = noteBytes(t, r.store, "relay/")
	require.Zero(t, r.bringReceipts(r.b, good, good), "twice")
	require.Equal(t, before, noteBytes(t, r.store, "relay/"))
	status, body = r.call(http.MethodGet, r.a, wire.ReceiptsURI, nil)
	requireError(t, http.StatusBadRequest, "M_INVALID_PARAM", status, body)
}

// receiptWithKey is a receipt of a server that another one has signed.
func receiptWithKey(t testing.TB, of, by *relaytest.Node) wire.Receipt {
	t.Helper()
	thief := *of
	thief.PrivateKey = by.PrivateKey
	return receiptOf(t, &thief, "a.example", wire.ReceiptItem{TransactionID: "t0"})
}

// TestReceiptsForHalf: a receipt is kept if the relay has the mail for half of its items,
// which it removes in any case.
func TestReceiptsForHalf(t *testing.T) {
	r := newRig(t, nil)
	r.fill(3, 100)
	entries := r.listed()
	madeUp := wire.Answer{TransactionID: "x"}
	require.Equal(t, 1, r.bringReceipts(r.b, receiptFor(t, r.b, entries[0], madeUp, madeUp)))
	receipts, _ := r.given(r.a, 0)
	require.Empty(t, receipts)
	require.Equal(t, 1, r.bringReceipts(r.b, receiptFor(t, r.b, entries[1], madeUp)))
	receipts, _ = r.given(r.a, 0)
	require.Len(t, receipts, 1)
	require.Equal(t, 1, r.bringReceipts(r.b, receiptFor(t, r.b, entries[2], entries[2], entries[2])))
	receipts, _ = r.given(r.a, 0)
	require.Len(t, receipts, 1, "one repeated is one")
}

// TestNoReceipts: a relay that takes none doesn't know the path, doesn't say that it does,
// and passes over what it gets.
func TestNoReceipts(t *testing.T) {
	for name, change := range map[string]func(*relay.Config){
		"switched off":            func(c *relay.Config) { c.MaxReceipts = -1 },
		"a store without notes":   func(c *relay.Config) { c.Store = bare{c.Store} },
		"a store that isn't seen": func(c *relay.Config) { c.Store = kept{c.Store} },
	} {
		r := newRig(t, change)
		ids := r.fill(2, 100)
		receipt := receiptOf(t, r.b, r.a.ServerName, wire.ReceiptItem{TransactionID: "t0"})
		for _, method := range []string{http.MethodGet, http.MethodPut} {
			status, body := r.call(method, r.b, wire.AskReceiptsURI(r.b.ServerName, 0), wire.ReceiptsBody{Receipts: []wire.Receipt{receipt}})
			requireError(t, http.StatusNotFound, "M_UNRECOGNIZED", status, body)
		}
		answer := r.next(wire.Query{Limit: 5}, wire.Fetch{EntryID: ids[0], Receipts: []wire.Receipt{receipt}})
		require.Equal(t, ids[1], answer.EntryID, name)
		require.False(t, answer.Receipts)
		status, body := r.call(http.MethodPut, r.a, wire.SendRelayURI("x", relaytest.User(r.b.ServerName))+wire.ReceiptsQuery(0), json.RawMessage(`{"pdus":[]}`))
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, `{}`, body)
		_, _, info := r.info(http.MethodGet)
		require.NotContains(t, info, wire.ReceiptsExtension)
	}
}

// noKeyOf knows the keys of all servers but one.
type noKeyOf struct {
	wire.HexKeys
	server spec.ServerName
	asked  int
}

func (k *noKeyOf) KnownKey(server spec.ServerName, id gomatrixserverlib.KeyID) (ed25519.PublicKey, bool) {
	if server == k.server {
		return nil, false
	}
	return k.HexKeys.KnownKey(server, id)
}

func (k *noKeyOf) VerifyJSONs(ctx context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	k.asked++
	return nil, fmt.Errorf("%w: %s", wire.ErrNoKey, requests[0].ServerName)
}

// TestReceiptsWithoutKey: without the key nothing is known of a receipt, and the keys of
// servers without mail are never looked up.
func TestReceiptsWithoutKey(t *testing.T) {
	keys := &noKeyOf{}
	r := newRig(t, func(c *relay.Config) { c.Keys = keys })
	keys.server = r.b.ServerName
	receipt := receiptOf(t, r.b, r.a.ServerName, wire.ReceiptItem{TransactionID: "t0"})
	require.Zero(t, r.bringReceipts(r.c, receipt))
	require.Zero(t, keys.asked)
	ids := r.fill(1, 100)
	status, body := r.call(http.MethodPut, r.c, wire.ReceiptsURI, wire.ReceiptsBody{Receipts: []wire.Receipt{receipt}})
	requireError(t, http.StatusServiceUnavailable, "M_UNKNOWN", status, body)
	require.Equal(t, 1, keys.asked)
	entries, err := r.store.Next(t.Context(), r.b.ServerName, 0, 1, 1)
	require.NoError(t, err)
	require.Equal(t, ids[0], entries[0].ID)
}

// TestReceiptsAreCharged: what receipts add to the store counts for the server that brings
// them.
func TestReceiptsAreCharged(t *testing.T) {
	var used policy.Used
	r := newRig(t, func(c *relay.Config) {
		c.Policy = usedOf(func(u policy.Used) { used = u })
	})
	r.fill(1, 100)
	before := noteBytes(t, r.store, "relay/receipt/")
	entries := r.listed()
	r.next(wire.Query{Limit: 1}, wire.Fetch{EntryID: entries[0].EntryID, Receipts: []wire.Receipt{receiptFor(t, r.b, entries...)}})
	require.EqualValues(t, noteBytes(t, r.store, "relay/receipt/")-before, used.Stored)
	r.next(wire.Query{Limit: 1}, wire.Fetch{})
	require.Zero(t, used.Stored)
}

// usedOf is a policy that admits all and is told what requests have used.
type usedOf func(policy.Used)

func (u usedOf) Admit(_ context.Context, r *policy.Request) error {
	if r.Stage == policy.Signed {
		r.WhenDone(u)
	}
	return nil
}
