package client_test

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// An office stands before a relay of b. It counts the mail that is left and gives the receipts that
// a test has put there.
type office struct {
	w    *nodeWorld
	real http.Handler

	mu       sync.Mutex
	before   func()               // an answer with receipts
	lost     func(id string) bool // the mail that it says it has taken, and hasn't
	answers  map[string]wire.Error
	left     map[string]int // how often each transaction was left
	asked    []int64        // the numbers after which receipts were asked for
	receipts []wire.Receipt // the n-th has the number n+1
	page     int            // how many it gives at once
	skip     int64          // what it adds to the number that it says

	fails func(after int64) *wire.Error // such a question, or nil
}

// inReceiptWorld runs a test in which a knows by b's record whether b gives receipts.
func inReceiptWorld(t *testing.T, gives bool, change func(*client.NodeConfig), run func(*nodeWorld)) {
	inNodeWorld(t, func(c *client.NodeConfig) {
		time.Sleep(time.Until(recordTime)) // before there is a Node
		if change != nil {
			change(c)
		}
	}, func(w *nodeWorld) {
		record, err := wire.SignRelayRecord(wire.RelayRecord{
			Seq: 1, Expires: uint64(recordTime.Add(80 * 24 * time.Hour).UnixMilli()), Receipts: gives,
			Relays: []wire.RecordRelay{{Name: r1}},
		}, b.SigningIdentity)
		require.NoError(t, err)
		require.NoError(t, w.node.AddRecord(w.Context(), record))
		run(w)
	})
}

// office opens an office at a relay of b, which a knows by hand.
func (w *nodeWorld) office(name spec.ServerName) *office {
	w.relay(name)
	on := w.net.Host(name)
	o := &office{w: w, real: on.Handler, left: make(map[string]int), page: 100}
	on.Handler = o
	w.net.Set(name, on)
	w.setRelays(b.ServerName, append(w.node.Relays(b.ServerName), name)...)
	return o
}

func (o *office) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	uri, _ := wire.SignedURI(r)
	route, err := wire.ParseURI(uri)
	require.NoError(o.w, err)
	o.mu.Lock()
	defer o.mu.Unlock()
	switch route.Endpoint {
	case wire.Receipts:
		require.Equal(o.w, b.ServerName, route.Server)
		o.asked = append(o.asked, route.Query.After)
		if o.before != nil {
			o.before()
		}
		if o.fails != nil {
			if why := o.fails(route.Query.After); why != nil {
				why.Write(w)
				return
			}
		}
		_, _ = w.Write(o.answer(route.Query.After))
		return
	case wire.SendRelay:
		o.left[string(route.TransactionID)]++
		if why, ok := o.answers[string(route.TransactionID)]; ok {
			why.Write(w)
			return
		}
		if o.lost != nil && o.lost(string(route.TransactionID)) {
			_, _ = w.Write([]byte(wire.SentAnswer))
			return
		}
	}
	o.real.ServeHTTP(w, r)
}

// set changes how the office behaves.
func (o *office) set(change func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
}

// answer begins anew for a number that the office hasn't given, as a relay does.
func (o *office) answer(after int64) []byte {
	from := int(after)
	if from > len(o.receipts) {
		from = 0
	}
	to := min(from+o.page, len(o.receipts))
	answer := wire.NewReceipts{Next: int64(to) + o.skip}
	for _, receipt := range o.receipts[from:to] {
		answer.Receipts = append(answer.Receipts, receipt.JSON())
	}
	return answer.AnswerWith(nil)
}

// give has the office give receipts, which those that sign them made then.
func (o *office) give(by *relaytest.Node, origin spec.ServerName, at time.Time, items ...wire.ReceiptItem) {
	receipts, err := wire.SignReceipts(origin, items, at, by.SigningIdentity)
	require.NoError(o.w, err)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.receipts = append(o.receipts, receipts...)
}

// handled has b say that it has handled transactions.
func (o *office) handled(ids ...string) {
	for _, id := range ids {
		o.give(b, a.ServerName, time.Now(), o.item(id))
	}
}

// item is a transaction of w.enqueue in a receipt.
func (o *office) item(id string) wire.ReceiptItem {
	content, err := wire.ReadContent(transaction(o.w.T, id).Body)
	require.NoError(o.w, err)
	return wire.ReceiptItem{TransactionID: gomatrixserverlib.TransactionID(id), Digest: content.Digest}
}

// times is how often a transaction was left since the last call.
func (o *office) times(id string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	times := o.left[id]
	delete(o.left, id)
	return times
}

// after are the numbers that were asked with since the last call.
func (o *office) after() []int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	asked := o.asked
	o.asked = nil
	return asked
}

// ends are the events since the last call, without those of relays.
func (w *nodeWorld) ends() []string {
	return slices.DeleteFunc(w.told(), func(event string) bool { return strings.HasSuffix(event, " relayed") })
}
