package relay_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

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
		"no mail":               {receiptWithKey(t, relaytest.NewNode("d"), relaytest.NewNode("d"))},
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
		"no mail":      {wire.ReceiptsBody{Receipts: []wire.Receipt{receiptWithKey(t, relaytest.NewNode("d"), r.c)}}, http.StatusForbidden, "M_FORBIDDEN"},
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

// TestReceiptWithMuchElse: a receipt with much in it that isn't an item removes mail, and
// takes no room.
func TestReceiptWithMuchElse(t *testing.T) {
	r := newRig(t, nil)
	r.fill(2, 100)
	for i, entry := range r.listed() {
		plain, object := receiptFor(t, r.b, entry), map[string]any{}
		require.NoError(t, json.Unmarshal(plain.JSON(), &object))
		delete(object, "signatures")
		object["ext"] = map[string]string{"x": strings.Repeat("x", []int{100, 20_000}[i])}
		text, err := json.Marshal(object)
		require.NoError(t, err)
		text, err = gomatrixserverlib.SignJSON(string(r.b.ServerName), r.b.KeyID, r.b.PrivateKey, text)
		require.NoError(t, err)
		receipt, err := wire.ReadReceipt(text)
		require.NoError(t, err)
		require.Equal(t, 1, r.bringReceipts(r.b, receipt))
		receipts, _ := r.given(r.a, 0)
		require.Len(t, receipts, 1)
	}
}

// TestReceiptsInVain: an address that has deep mailboxes looked through again and again,
// for receipts of mail that isn't there, is slowed down.
func TestReceiptsInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mail := memory.New(memory.Options{})
		server, err := relay.New(relay.Config{ServerName: relayName, Store: mail, MaxRecords: 2})
		require.NoError(t, err)
		defer func() {
			require.NoError(t, server.Close())
			require.NoError(t, mail.Close())
		}()
		a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
		for i := range 2000 {
			one := store.Mail{Destination: b.ServerName, Origin: "o.example", TransactionID: gomatrixserverlib.TransactionID(fmt.Sprint(i)), Body: []byte("{}")}
			_, err := mail.Put(t.Context(), one, store.Limits{})
			require.NoError(t, err)
		}
		bring := func(id string) {
			receipt := receiptOf(t, b, "o.example", wire.ReceiptItem{TransactionID: gomatrixserverlib.TransactionID(id)})
			request, err := a.Request(http.MethodPut, relayName, wire.ReceiptsURI, wire.ReceiptsBody{Receipts: []wire.Receipt{receipt}})
			require.NoError(t, err)
			request.RequestURI = request.URL.RequestURI()
			w := httptest.NewRecorder()
			server.ServeHTTP(w, request)
			require.Equal(t, http.StatusOK, w.Code, w.Body.String())
		}
		began := time.Now()
		for i := range 20 {
			bring(fmt.Sprint(1999 - i))
		}
		require.Zero(t, time.Since(began), "they were there")
		for range 100 {
			bring("gone")
		}
		require.Greater(t, time.Since(began), 3*time.Second)
	})
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

// TestReceiptsAreCharged: the bytes that receipts add to the store count for the server that brings
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

// usedOf is a policy that admits all and is told how much requests have used.
type usedOf func(policy.Used)

func (u usedOf) Admit(_ context.Context, r *policy.Request) error {
	if r.Stage == policy.Signed {
		r.WhenDone(u)
	}
	return nil
}
