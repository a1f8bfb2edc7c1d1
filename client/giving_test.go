package client_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// Receipts are for mail that the handler took and that was proven, again for each copy, and
// for no other.
func TestReceiptsGiven(t *testing.T) {
	fails := true
	inGiving(t, func(c *client.ReceiverConfig) {
		handle := c.Handle
		c.Handle = func(ctx context.Context, got client.Received) error {
			if got.TransactionID == "5" && fails {
				return context.DeadlineExceeded
			}
			return handle(ctx, got)
		}
	}, func(p *provenInbox, at *taker) {
		p.forge = func(item *wire.Item) {
			switch item.TransactionID {
			case "2": // stripped
				item.Proof = nil
			case "3": // of other mail
				item.Transaction = []byte(`{"pdus":[],"edus":[]}`)
			case "4": // unreadable
				item.Proof, item.Transaction = nil, []byte(`{"pdus":1}`)
			}
		}
		for i := range 5 {
			p.leave(fmt.Sprint(i+1), i+1, r1)
		}
		require.ErrorIs(t, p.sync().Err, context.DeadlineExceeded)
		require.Equal(t, []string{"1"}, at.got())
		fails = false
		require.NoError(t, p.sync().Err)
		require.Equal(t, []string{"5"}, at.got())
		again := *a
		for _, id := range []string{"1", "6"} { // a copy that the relay took for new, and one that is alike
			p.leaveAs(&again, nodeB, id, `{"pdus":[{"n":1}],"edus":[]}`)
		}
		require.NoError(t, p.sync().Err)
		require.Equal(t, []string{"6"}, at.got(), "the relay remembers 1")
	})
}

// Mail whose acknowledgement was lost with this server's memory of it comes again, and
// there is a receipt for each copy.
func TestReceiptsForCopies(t *testing.T) {
	inGiving(t, nil, func(p *provenInbox, at *taker) {
		lost := true
		at.refuse = func(_ *http.Request, receipts int) *wire.Error {
			if receipts > 0 && lost {
				return &wire.Error{Status: http.StatusInternalServerError}
			}
			return nil
		}
		p.leave("1", 1, r1)
		require.Error(t, p.sync().Err)
		p.notes(nil)
		lost = false
		require.Equal(t, dropped, p.from(r1))
		require.Equal(t, []string{"1"}, at.got())
	})
}

// Nobody gets receipts that doesn't want them, nor are there any if they are off.
func TestReceiptsOff(t *testing.T) {
	inGiving(t, func(c *client.ReceiverConfig) { c.Receipts = false }, func(p *provenInbox, at *taker) {
		p.leave("1", 1, r1)
		require.Equal(t, one, p.from(r1))
		require.Empty(t, at.got())
	})
	inGiving(t, nil, func(p *provenInbox, at *taker) {
		at.says = func(answer []byte) []byte {
			return bytes.ReplaceAll(answer, []byte(`"receipts":true`), []byte(`"receipts":false`))
		}
		p.leave("1", 1, r1)
		require.Equal(t, one, p.from(r1))
		require.Empty(t, at.got())
	})
	_, err := client.NewReceiver(client.ReceiverConfig{
		Receipts: true, Peers: client.NewPeers(), Caller: &client.Caller{},
		Handle: func(context.Context, client.Received) error { return nil },
	})
	require.ErrorContains(t, err, "Receipts needs Keys")
}

// A relay can't have a receipt made for mail that is like mail that was handled, by giving it
// under a number that was acknowledged.
func TestReceiptsForAnotherLikeIt(t *testing.T) {
	inGiving(t, nil, func(p *provenInbox, at *taker) {
		const typing = `{"pdus":[],"edus":[{"edu_type":"m.typing","content":{}}]}`
		var number int64
		p.forge = func(item *wire.Item) { number = item.ID }
		p.leaveAs(a, nodeB, "1", typing)
		require.Equal(t, one, p.from(r1))
		require.Equal(t, []string{"1"}, at.got())
		p.notes(nil)
		p.forge = func(item *wire.Item) { item.ID = number }
		p.leaveAs(a, nodeB, "2", typing)
		got := p.sync()
		require.Zero(t, got.Handled)
		require.Equal(t, 1, got.Copies)
		require.Empty(t, at.got())
	})
}

// There are none for transactions that have nothing but receipts in them, for IDs that
// JSON can't hold, and while the clock isn't set.
func TestReceiptsNever(t *testing.T) {
	inGiving(t, nil, func(p *provenInbox, at *taker) {
		p.leaveAs(a, nodeB, "1", `{"pdus":[],"edus":[{"edu_type":"org.matrixrelay.receipt","content":{}}]}`)
		p.leaveAs(a, nodeB, "2", `{"pdus":[{"n":1}],"edus":[{"edu_type":"org.matrixrelay.receipt","content":{}}]}`)
		p.leaveAs(a, nodeB, "3\xff", `{"pdus":[{"n":2}]}`)
		p.leaveAs(a, nodeB, "4", `{"pdus":[],"edus":[{"edu_type":"m.typing","content":{"x":"org.matrixrelay.receipt"}}]}`)
		require.NoError(t, p.sync().Err)
		require.Equal(t, []string{"2", "4"}, at.got())
		time.Sleep(time.Until(time.Date(2101, 1, 1, 0, 0, 0, 0, time.UTC)))
		p.leave("5", 5, r1)
		require.NoError(t, p.sync().Err)
		require.Empty(t, at.got())
	})
}

// The relay has them before it acknowledges, also if there are more than fit one request.
func TestReceiptsForManyOrigins(t *testing.T) {
	inGiving(t, nil, func(p *provenInbox, at *taker) {
		for i := range 10 {
			from := relaytest.NewNode(fmt.Sprint("origin", i))
			p.leaveAs(from, nodeB, fmt.Sprint(i), fmt.Sprintf(`{"pdus":[{"n":%d}]}`, i))
		}
		require.NoError(t, p.sync().Err)
		require.Equal(t, []string{"PUT 0 1 2 3 4 5 6 7", "GET 8 9"}, at.how())
	})
}

// A proxy refuses requests for mail with receipts in them, or breaks them off: they go by
// themselves, and the mail is acknowledged all the same.
func TestReceiptsThatAProxyRefuses(t *testing.T) {
	inGiving(t, nil, func(p *provenInbox, at *taker) {
		at.refuse = func(r *http.Request, receipts int) *wire.Error {
			if r.Method == http.MethodGet && receipts > 0 {
				return &wire.Error{Status: http.StatusRequestEntityTooLarge, Code: spec.ErrorUnknown}
			}
			return nil
		}
		for i := range 2 {
			p.leave(fmt.Sprint(i), i, r1)
			require.Equal(t, one, p.from(r1))
			require.Equal(t, []string{fmt.Sprint("PUT ", i)}, at.how())
			require.Zero(t, p.left())
		}
	})
	inGiving(t, nil, func(p *provenInbox, at *taker) {
		broken := true
		at.refuse = func(r *http.Request, receipts int) *wire.Error {
			if r.Method == http.MethodGet && receipts > 0 && broken {
				return &wire.Error{Status: http.StatusGatewayTimeout}
			}
			return nil
		}
		p.leave("1", 1, r1)
		require.Error(t, p.sync().Err)
		require.NoError(t, p.sync().Err)
		require.Equal(t, []string{"PUT 1", "PUT 1"}, at.how(), "it came twice")
		broken = false
		p.leave("2", 2, r1)
		require.NoError(t, p.sync().Err)
		require.Equal(t, []string{"GET 2"}, at.how(), "it was that once")
	})
}

// A relay that doesn't take receipts for now gets them once in each turn, so that they delay
// no mail, and those that it will never take no more.
func TestReceiptsThatArentTaken(t *testing.T) {
	for status, want := range map[int][]string{http.StatusServiceUnavailable: upTo(0, 249), http.StatusForbidden: nil} {
		inGiving(t, nil, func(p *provenInbox, at *taker) {
			puts, broken := 0, true
			at.refuse = func(r *http.Request, receipts int) *wire.Error {
				if receipts == 0 || !broken {
					return nil
				}
				if r.Method == http.MethodPut {
					puts++
					return &wire.Error{Status: status, Code: spec.ErrorForbidden}
				}
				return &wire.Error{Status: http.StatusBadGateway}
			}
			for i := range 250 {
				p.leave(fmt.Sprint(i), i, r1)
			}
			got := p.sync()
			require.NoError(t, got.Err)
			require.Equal(t, 250, got.Handled)
			require.Zero(t, p.left())
			if status == http.StatusServiceUnavailable {
				require.Equal(t, 1, puts)
			}
			broken = false
			require.NoError(t, p.sync().Err)
			items := at.got()
			require.ElementsMatch(t, want, items)
		})
	}
}

// A relay that didn't take a receipt gets it a little later, also if no more mail comes.
func TestReceiptsThatAreOwed(t *testing.T) {
	inGiving(t, func(c *client.ReceiverConfig) { c.Wait = 50 * time.Second }, func(p *provenInbox, at *taker) {
		var broken atomic.Bool
		var puts atomic.Int64
		broken.Store(true)
		at.refuse = func(r *http.Request, receipts int) *wire.Error {
			if receipts == 0 || !broken.Load() {
				return nil
			}
			if r.Method == http.MethodPut {
				puts.Add(1)
			}
			return &wire.Error{Status: http.StatusBadGateway}
		}
		ctx, cancel := context.WithCancel(p.Context())
		var running sync.WaitGroup
		running.Go(func() { require.ErrorIs(t, p.receiver.Run(ctx), context.Canceled) })
		p.leave("1", 1, r1)
		time.Sleep(10 * time.Minute)
		require.Zero(t, p.left())
		require.Empty(t, at.got())
		require.Greater(t, puts.Load(), int64(5))
		require.Less(t, puts.Load(), int64(15))
		p.leave("2", 2, r1) // it isn't held up
		time.Sleep(time.Second)
		require.Len(t, p.taken(), 2)
		broken.Store(false)
		time.Sleep(time.Minute)
		require.Equal(t, []string{"1", "2"}, at.got())
		cancel()
		running.Wait()
	})
}

// A Node's record says whether it gives receipts, also after that was changed.
func TestRecordTellsOfReceipts(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		gives := true
		w.change = func(c *client.NodeConfig) { c.Receiver.Receipts = gives }
		w.relays(r1)
		n := w.node(b)
		n.announce(r1)
		for _, gives = range []bool{true, false, true} {
			n.close()
			n.open()
			w.pass(2 * time.Hour) // one record an hour
			record, err := wire.ReadLink(n.Link())
			require.NoError(t, err)
			require.Equal(t, gives, record.Receipts)
		}
	})
}
