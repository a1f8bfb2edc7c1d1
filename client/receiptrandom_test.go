package client_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// How many worlds TestReceiptsAtRandom runs, and the one seed to run.
const (
	receiptRuns = "RELAY_NODE_RECEIPTS_RUNS"
	receiptSeed = "RELAY_NODE_RECEIPTS_SEED"
)

// TestReceiptsAtRandom has a write to b through three relays, of which one is honest, and
// the others lose mail, say that they have none, strip proofs, and withhold, forge and
// replay receipts. They never meet directly. Both are closed and opened now and then. In
// the end b has handled each transaction once with its proof, a knows it, and never knew it
// before b had.
//
// RELAY_NODE_RECEIPTS_RUNS is how many there are (default: 5).
// RELAY_NODE_RECEIPTS_SEED=n runs that seed alone. A seed decides all but the jitter of
// back-offs, and which of two goroutines is first.
func TestReceiptsAtRandom(t *testing.T) {
	seeds.Each(t, receiptSeed, receiptRuns, seeds.Rounds(5, 1), func(t *testing.T, seed uint64) {
		inRecordWorld(t, func(w *recordWorld) {
			l := &liarWorld{recordWorld: w, dice: rand.New(rand.NewPCG(seed, 0)), handled: make(map[wire.ReceiptItem]int)}
			l.play()
		})
	})
}

// A liarWorld is nodes a and b, and relays of which all but one lie.
type liarWorld struct {
	*recordWorld
	relays []*liar
	a, b   *recordNode

	mu      sync.Mutex
	dice    *rand.Rand
	handled map[wire.ReceiptItem]int // by b, with proofs
	sent    []wire.ReceiptItem
	known   []string // to be handled, by a
}

func (w *liarWorld) intN(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dice.IntN(n)
}

func (w *liarWorld) chance(percent int) bool { return w.intN(100) < percent }

func (w *liarWorld) upTo(most time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(w.dice.Int64N(int64(most)))
}

func (w *liarWorld) play() {
	for i, name := range []spec.ServerName{r1, r2, r3} {
		box, err := w.net.AddRelay(relay.Config{ServerName: name, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(w, err)
		l := &liar{w: w, real: box.Server}
		w.relays = append(w.relays, l)
		w.net.Set(name, relaytest.Host{Handler: l, Latency: time.Duration(i*30) * time.Millisecond})
	}
	honest := w.relays[w.intN(len(w.relays))]
	honest.honest = true
	w.change = func(c *client.NodeConfig) {
		c.Handle, c.Outbox.Notify = w.handle, w.note
		c.Receiver = client.ReceiverConfig{Receipts: c.Identity.ServerName == b.ServerName}
	}
	w.a, w.b = w.node(a), w.node(b)
	w.b.announce(r1, r2, r3)
	w.a.add(w.b.Link())
	for range 8 {
		for range 1 + w.intN(4) {
			w.write()
		}
		time.Sleep(w.upTo(10 * time.Minute))
		for _, n := range []*recordNode{w.a, w.b} {
			if w.chance(15) {
				n.close()
				time.Sleep(w.upTo(2 * time.Hour))
				n.open()
			}
		}
	}
	w.settle()
}

// settle waits until a knows that b has handled all, and checks that it has.
func (w *liarWorld) settle() {
	for range 4 * 24 {
		time.Sleep(time.Hour)
		w.mu.Lock()
		done := len(w.known) == len(w.sent)
		w.mu.Unlock()
		if done {
			break
		}
	}
	w.a.close()
	w.b.close()
	for _, item := range w.sent {
		require.Equal(w, 1, w.handled[item], "%s", item.TransactionID)
	}
	require.Len(w, w.handled, len(w.sent))
	require.Len(w, w.known, len(w.sent), "known to be handled")
}

// write has a write to b, sometimes the same as before.
func (w *liarWorld) write() {
	id := fmt.Sprint("t", len(w.sent))
	body := fmt.Sprintf(`{"edus":[{"content":{"n":%d},"edu_type":"m.typing"}],"origin":%q,"origin_server_ts":%d,"pdus":[]}`,
		w.intN(40), a.ServerName, time.Now().UnixMilli())
	content, err := wire.ReadContent([]byte(body))
	require.NoError(w, err)
	w.mu.Lock()
	w.sent = append(w.sent, wire.ReceiptItem{TransactionID: gomatrixserverlib.TransactionID(id), Digest: content.Digest})
	w.mu.Unlock()
	require.NoError(w, w.a.Enqueue(w.Context(), client.Transaction{
		ID: gomatrixserverlib.TransactionID(id), Destination: b.ServerName, Body: []byte(body),
	}))
}

// handle is the handler of b, which takes EDUs only if they are proven.
func (w *liarWorld) handle(_ context.Context, got client.Received) error {
	content, err := wire.ReadContent(got.Body)
	require.NoError(w, err)
	if got.Proof != client.Proven || !strings.HasPrefix(string(got.TransactionID), "t") {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handled[wire.ReceiptItem{TransactionID: got.TransactionID, Digest: content.Digest}]++
	return nil
}

// note takes a's news of its transactions.
func (w *liarWorld) note(e client.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !strings.HasPrefix(string(e.TransactionID), "t") || e.Result == client.ResultRelayed {
		return
	}
	require.Equal(w, client.ResultHandled, e.Result)
	require.NotContains(w, w.known, string(e.TransactionID), "it ends once")
	w.known = append(w.known, string(e.TransactionID))
	at := slices.IndexFunc(w.sent, func(item wire.ReceiptItem) bool { return item.TransactionID == e.TransactionID })
	require.Equal(w, 1, w.handled[w.sent[at]], "%s isn't handled", e.TransactionID)
}

// A liar is a relay that lies, unless it is honest.
type liar struct {
	w      *liarWorld
	real   http.Handler
	honest bool

	mu  sync.Mutex
	old []byte // an answer with receipts that it gave before
}

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	uri, _ := wire.SignedURI(r)
	route, err := wire.ParseURI(uri)
	require.NoError(l.w, err)
	switch {
	case l.honest:
		l.real.ServeHTTP(w, r)
	case route.Endpoint == wire.SendRelay && l.w.chance(50):
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write([]byte(wire.SentAnswer)) // and it is lost
	case route.Endpoint == wire.RelayTxn:
		serveChanged(l.real, w, r, l.tamper)
	case route.Endpoint == wire.Receipts && r.Method == http.MethodGet:
		serveChanged(l.real, w, r, l.lie)
	default:
		l.real.ServeHTTP(w, r)
	}
}

// tamper changes an answer with mail.
func (l *liar) tamper(answer []byte) []byte {
	switch {
	case l.w.chance(40):
		return answer
	case l.w.chance(30):
		return []byte(wire.EmptyBatch)
	}
	return changeMail(answer, func(item *wire.Item) {
		switch {
		case l.w.chance(30):
			item.Proof = nil
		case l.w.chance(30):
			item.TransactionID = "made-up"
		case l.w.chance(30):
			item.Transaction = bytes.ReplaceAll(item.Transaction, []byte(`"n":`), []byte(`"n":1`))
		}
	})
}

// lie changes an answer with receipts.
func (l *liar) lie(answer []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.old
	l.old = answer
	_, next, _ := wire.ReadNewReceipts(answer)
	switch {
	case l.w.chance(30):
		return wire.NewReceipts{Next: next}.AnswerWith(nil) // withheld for good
	case l.w.chance(30) && before != nil:
		return before
	}
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	forged := wire.NewReceipts{Next: next}
	for _, by := range []*relaytest.Node{a, relaytest.NewNode("c")} {
		as := by.SigningIdentity
		if l.w.dice.IntN(2) == 0 {
			as.ServerName = b.ServerName
		}
		receipts, err := wire.SignReceipts(a.ServerName, l.w.sent[max(0, len(l.w.sent)-wire.MaxReceiptItems):], time.Now(), as)
		require.NoError(l.w, err)
		for _, receipt := range receipts {
			forged.Receipts = append(forged.Receipts, receipt.JSON())
		}
	}
	return forged.AnswerWith(nil)
}
