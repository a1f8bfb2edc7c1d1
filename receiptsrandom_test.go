package relay_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// A clearingModel knows what a mailbox must hold, and checks the relay after each step.
type clearingModel struct {
	*testing.T
	random  *rand.Rand
	store   wholeStore
	server  *relay.Server
	nodes   []*relaytest.Node // the first is the owner, the others send
	live    []wire.Answer     // in order
	cleared []int64           // of those that receipts have removed
	gone    []wire.Answer
	shown   map[spec.ServerName][]string // by origin: the receipts that must be shown
}

// TestReceiptsAtRandom: whatever comes in which order, acknowledgements and receipts
// remove just the mail that they are for, lists and fetches give just what is there, and
// each origin sees the receipts that were kept for it.
func TestReceiptsAtRandom(t *testing.T) {
	seeds.Each(t, "RELAY_RECEIPTS_SEED", "RELAY_RECEIPTS_RUNS", 2, func(t *testing.T, seed uint64) {
		for name, s := range receiptStores(t) {
			m := &clearingModel{
				T: t, random: rand.New(rand.NewPCG(seed, 1)), store: s.(wholeStore), shown: make(map[spec.ServerName][]string),
				nodes: []*relaytest.Node{relaytest.NewNode("b"), relaytest.NewNode("a"), relaytest.NewNode("c")},
			}
			m.restart()
			for range 100 {
				m.step()
				m.check(name)
			}
			require.NoError(t, m.server.Close())
			require.NoError(t, s.Close())
		}
	})
}

func (m *clearingModel) restart() {
	m.Helper()
	if m.server != nil {
		require.NoError(m, m.server.Close())
	}
	var err error
	m.server, err = relay.New(relay.Config{ServerName: relayName, Store: m.store, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(m, err)
}

// call makes a request that must succeed.
func (m *clearingModel) call(method string, signer *relaytest.Node, uri string, content any) []byte {
	m.Helper()
	request, err := signer.Request(method, relayName, uri, content)
	require.NoError(m, err)
	request.RequestURI = request.URL.RequestURI()
	w := httptest.NewRecorder()
	m.server.ServeHTTP(w, request)
	require.Equal(m, http.StatusOK, w.Code, w.Body)
	return w.Body.Bytes()
}

func (m *clearingModel) step() {
	switch m.random.IntN(12) {
	case 0:
		m.restart()
	case 1, 2:
		m.fetch(nil)
	case 3:
		receipt := m.receipt()
		m.fetch(&receipt)
	case 4, 5:
		receipt := m.receipt()
		m.bring(m.nodes[m.random.IntN(len(m.nodes))], receipt)
	default:
		m.send()
	}
}

func (m *clearingModel) send() {
	m.Helper()
	node := m.nodes[1+m.random.IntN(2)]
	uri := wire.SendRelayURI(gomatrixserverlib.TransactionID(fmt.Sprint(m.random.IntN(200))), relaytest.User(m.nodes[0].ServerName))
	m.call(http.MethodPut, node, uri, json.RawMessage(fmt.Sprintf(`{"pdus":[{"n":%d}]}`, m.random.IntN(3))))
	last := int64(0)
	if len(m.live) > 0 {
		last = m.live[len(m.live)-1].EntryID
	}
	listed, err := m.store.List(m.Context(), m.nodes[0].ServerName, last, 2)
	require.NoError(m, err)
	for _, entry := range listed { // none, if it is a copy
		m.live = append(m.live, wire.Answer{EntryID: entry.ID, Origin: entry.Origin, TransactionID: entry.TransactionID, Digest: entry.Digest})
	}
}

// receipt is one for some mail that is there or was, and some that never was.
func (m *clearingModel) receipt() wire.Receipt {
	m.Helper()
	origin := m.nodes[1+m.random.IntN(2)].ServerName
	items := []wire.Answer{{Origin: origin, TransactionID: "made up"}}
	for _, list := range [][]wire.Answer{m.live, m.gone} {
		for _, entry := range list {
			if entry.Origin == origin && m.random.IntN(4) == 0 {
				items = append(items, entry)
			}
		}
	}
	items = items[m.random.IntN(2):]
	if len(items) == 0 {
		items = []wire.Answer{{Origin: origin, TransactionID: "made up, too"}}
	}
	return receiptFor(m, m.nodes[0], items...)
}

// hit are the entries that are there which a receipt is for.
func (m *clearingModel) hit(receipt wire.Receipt) (ids []int64) {
	for _, entry := range m.live {
		if slices.Contains(receipt.Items, wire.ReceiptItem{TransactionID: entry.TransactionID, Digest: entry.Digest}) && entry.Origin == receipt.Origin {
			ids = append(ids, entry.EntryID)
		}
	}
	return ids
}

// keep notes that a receipt is kept, if it is, when there is mail for so many items.
func (m *clearingModel) keep(receipt wire.Receipt, hit int, broughtBy spec.ServerName) {
	if hit > 0 && 2*hit >= len(receipt.Items) && receipt.Origin != broughtBy {
		m.shown[receipt.Origin] = append(m.shown[receipt.Origin], string(receipt.JSON()))
	}
}

// remove takes entries out of the model.
func (m *clearingModel) remove(is func(id int64) bool) {
	m.live = slices.DeleteFunc(m.live, func(entry wire.Answer) bool {
		if is(entry.EntryID) {
			m.gone = append(m.gone, entry)
			return true
		}
		return false
	})
}

func (m *clearingModel) bring(by *relaytest.Node, receipt wire.Receipt) {
	m.Helper()
	hit := m.hit(receipt)
	body := m.call(http.MethodPut, by, wire.ReceiptsURI, wire.ReceiptsBody{Receipts: []wire.Receipt{receipt}})
	require.Equal(m, len(hit), wire.Cleared(body))
	m.keep(receipt, len(hit), by.ServerName)
	m.remove(func(id int64) bool { return slices.Contains(hit, id) })
	m.cleared = append(m.cleared, hit...)
}

// fetch acknowledges something, with a receipt if there is one, and fetches some mail.
func (m *clearingModel) fetch(receipt *wire.Receipt) {
	m.Helper()
	fetch := wire.Fetch{EntryID: m.anyID()}
	var hit []int64
	if receipt != nil {
		fetch.Receipts, hit = []wire.Receipt{*receipt}, m.hit(*receipt)
		m.keep(*receipt, len(hit), m.nodes[0].ServerName)
	}
	isLive := slices.ContainsFunc(m.live, func(entry wire.Answer) bool { return entry.EntryID == fetch.EntryID })
	if isLive || slices.Contains(m.cleared, fetch.EntryID) {
		m.remove(func(id int64) bool { return id <= fetch.EntryID })
	}
	m.remove(func(id int64) bool { return slices.Contains(hit, id) })
	m.cleared = append(m.cleared, hit...)

	query := wire.Query{Limit: 1 + m.random.IntN(9), List: m.random.IntN(2) == 0}
	var want []int64
	if m.random.IntN(2) == 0 && !query.List {
		for range 1 + m.random.IntN(8) {
			query.IDs = append(query.IDs, max(m.anyID(), 1))
		}
	}
	for _, entry := range m.live {
		if query.IDs == nil && len(want) < query.Limit || slices.Contains(query.IDs, entry.EntryID) {
			want = append(want, entry.EntryID)
		}
	}
	uri := wire.RelayTxnURI(relaytest.User(m.nodes[0].ServerName)) + query.Encode()
	answer, err := wire.ReadList(m.call(http.MethodGet, m.nodes[0], uri, fetch))
	require.NoError(m, err)
	var got []int64
	if answer.EntriesQueued {
		require.Equal(m, query.List, answer.IsListed())
		got = listedIDs(append([]wire.Answer{answer}, answer.More...))
	}
	require.Equal(m, want, got)
}

// anyID is that of an entry that is there, that was cleared or is gone, or made up.
func (m *clearingModel) anyID() int64 {
	var ids []int64
	switch m.random.IntN(4) {
	case 0:
		ids = m.cleared
	case 1:
		ids = listedIDs(m.gone)
	case 2:
		return int64(m.random.IntN(3)) * 1_000_000_000_000_000
	default:
		ids = listedIDs(m.live)
		ids = ids[:(len(ids)+2)/3] // else it is always empty
	}
	if len(ids) == 0 {
		return 0
	}
	return ids[m.random.IntN(len(ids))]
}

// check compares the relay with the model.
func (m *clearingModel) check(name string) {
	m.Helper()
	listed, err := m.store.List(m.Context(), m.nodes[0].ServerName, 0, 1000)
	require.NoError(m, err)
	var ids []int64
	for _, entry := range listed {
		ids = append(ids, entry.ID)
	}
	require.Equal(m, listedIDs(m.live), ids, name)
	for _, node := range m.nodes[1:] {
		var shown []string
		for after := int64(0); ; {
			receipts, next, ok := wire.ReadNewReceipts(m.call(http.MethodGet, node, wire.AskReceiptsURI(m.nodes[0].ServerName, after), nil))
			require.True(m, ok)
			if len(receipts) == 0 {
				break
			}
			for _, receipt := range receipts {
				shown = append(shown, string(receipt.JSON()))
			}
			after = next
		}
		require.Equal(m, m.shown[node.ServerName], shown, name)
	}
}
