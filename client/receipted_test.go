package client_test

import (
	"crypto/sha256"
	"fmt"
	"math"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// Mail that a relay has is stored, and mail that the destination has signed for is handled:
// it leaves the queue from wherever it is there, and isn't handed over again.
func TestOutboxHandled(t *testing.T) {
	inReceiptWorld(t, true, nil, func(w *nodeWorld) {
		o := w.office(r1)
		w.enqueue("1", "2", "3", "4")
		time.Sleep(time.Second)
		require.Equal(t, []string{"1 relayed", "2 relayed", "3 relayed", "4 relayed"}, w.told())
		o.handled("2", "3", "2")
		time.Sleep(time.Hour)
		require.Equal(t, []string{"2 handled", "3 handled"}, w.ends())
		status := w.status().Destinations[0]
		require.EqualValues(t, 2, status.Waiting)
		require.True(t, status.Receipts)
		require.Equal(t, client.GivenAll, status.Relays[0].Given)
		home := w.net.AddHomeserver(b.ServerName)
		w.node.Seen(b.ServerName)
		time.Sleep(time.Second)
		require.Equal(t, []string{"1 delivered", "4 delivered"}, w.ends())
		require.Len(t, home.Sent(), 2)
	})
}

// All is handled, and nothing is left: nobody is asked any more.
func TestOutboxAllHandled(t *testing.T) {
	inReceiptWorld(t, true, nil, func(w *nodeWorld) {
		o := w.office(r1)
		w.enqueue("1", "2")
		time.Sleep(time.Second)
		o.handled("1", "2")
		time.Sleep(2 * time.Hour)
		require.Equal(t, []string{"1 handled", "2 handled"}, w.ends())
		require.Empty(t, w.status().Destinations)
		require.Equal(t, []int64{0, 2}, o.after(), "two pages, and then no more")
		time.Sleep(10 * 24 * time.Hour)
		require.Empty(t, o.after())
		require.Equal(t, 1, o.times("1"))
	})
}

// No relay makes a believe that b has handled mail that it hasn't.
func TestOutboxLyingReceipts(t *testing.T) {
	inReceiptWorld(t, true, nil, func(w *nodeWorld) {
		lies, honest := w.office(r1), w.office(r2)
		lies.give(b, a.ServerName, time.Now().Add(-26*time.Hour), lies.item("1")) // of another life of a
		lies.handled("late")                                                      // before it is sent
		w.enqueue("1", "2")
		time.Sleep(2 * time.Hour)
		other := relaytest.NewNode("another")
		forged := &relaytest.Node{SigningIdentity: b.SigningIdentity}
		forged.PrivateKey = other.PrivateKey
		lies.give(forged, a.ServerName, time.Now(), lies.item("1"))
		lies.give(other, a.ServerName, time.Now(), lies.item("1"))
		lies.give(b, other.ServerName, time.Now(), lies.item("1"))
		content := lies.item("1")
		content.Digest = sha256.Sum256(nil) // a retry that had more in it
		lies.give(b, a.ServerName, time.Now(), content)
		id := lies.item("1") // another transaction with that content
		id.TransactionID = "2"
		lies.give(b, a.ServerName, time.Now(), id)
		time.Sleep(3 * time.Hour)
		require.Empty(t, w.ends())
		require.EqualValues(t, 2, w.status().Destinations[0].Waiting)
		honest.handled("1", "2") // though r1 withholds it
		time.Sleep(2 * time.Hour)
		require.Equal(t, []string{"1 handled", "2 handled"}, w.ends())
		time.Sleep(24 * time.Hour)
		w.enqueue("late") // sent now, and not for that receipt
		time.Sleep(3 * time.Hour)
		require.Empty(t, w.ends())
	})
}

// Numbers that a relay makes up, or gives anew after it was set back, hide no receipts for
// long; old ones that it shows again change nothing.
func TestOutboxReceiptNumbers(t *testing.T) {
	inReceiptWorld(t, true, nil, func(w *nodeWorld) {
		o := w.office(r1)
		w.enqueue("1", "2", "3")
		time.Sleep(time.Second)
		o.set(func() { o.page = 1 })
		o.handled("1", "2")
		time.Sleep(time.Hour)
		require.Equal(t, []string{"1 handled", "2 handled"}, w.ends())
		require.Equal(t, []int64{0, 1, 2}, o.after()[:3])
		o.set(func() { o.skip = math.MaxInt32 })
		time.Sleep(time.Hour)
		o.set(func() { o.skip = 0 })
		o.handled("3")
		time.Sleep(2 * time.Hour)
		require.Equal(t, []string{"3 handled"}, w.ends())
	})
	inReceiptWorld(t, true, nil, func(w *nodeWorld) {
		o := w.office(r1)
		o.set(func() { o.page = 8 })
		for i := range 30 {
			w.enqueue(fmt.Sprint(i))
			o.give(b, a.ServerName, time.Now(), o.item("other"))
		}
		time.Sleep(time.Hour)
		require.Empty(t, w.ends())
		o.set(func() { o.receipts = nil }) // it is set back
		for i := range 20 {
			o.handled(fmt.Sprint(i))
		}
		time.Sleep(2 * time.Hour)
		require.Len(t, w.ends(), 20)
		o.set(func() { o.receipts = nil }) // and has none at all
		time.Sleep(2 * time.Hour)
		for i := range 10 {
			o.handled(fmt.Sprint(20 + i))
		}
		time.Sleep(2 * time.Hour)
		require.Len(t, w.ends(), 10)
	})
	inReceiptWorld(t, true, nil, func(w *nodeWorld) {
		o := w.office(r1)
		w.enqueue("1")
		o.set(func() { o.skip = 1 }) // always one more
		time.Sleep(time.Hour)
		require.Less(t, len(o.after()), 1000)
		o.set(func() { o.skip = 0 })
		for range 2 {
			o.give(b, a.ServerName, time.Now(), o.item("other"))
		}
		o.handled("1")
		time.Sleep(2 * time.Hour)
		require.Equal(t, []string{"1 handled"}, w.ends())
	})
}

// A relay that has a transaction, and doubts it when it is given again, gives receipts for it
// all the same.
func TestOutboxReceiptForDoubted(t *testing.T) {
	inReceiptWorld(t, true, nil, func(w *nodeWorld) {
		o := w.office(r1)
		w.enqueue("1")
		time.Sleep(time.Hour)
		require.Equal(t, 1, o.times("1"))
		o.set(func() { o.answers = map[string]wire.Error{"1": {Status: 413}} })
		time.Sleep(50 * time.Hour)
		require.LessOrEqual(t, o.times("1"), 3)
		o.handled("1")
		time.Sleep(3 * time.Hour)
		require.Equal(t, []string{"1 handled"}, w.ends())
	})
}

// Without a receipt a transaction is left again, once a day and three times, since the relay
// may have lost it; with one, or if b gives none, never.
func TestOutboxSendsAgain(t *testing.T) {
	inReceiptWorld(t, true, nil, func(w *nodeWorld) {
		o := w.office(r1)
		lost := map[string]bool{"1": true, "2": true}
		o.set(func() { o.lost = func(id string) bool { return lost[id] } })
		w.enqueue("1", "2")
		time.Sleep(time.Hour)
		require.Equal(t, 1, o.times("1"))
		w.enqueue("3")
		time.Sleep(35 * time.Hour)
		require.Equal(t, 1, o.times("1"))
		o.set(func() { delete(lost, "1") })
		w.close()
		w.open()
		w.run()
		time.Sleep(24 * time.Hour)
		require.Equal(t, 1, o.times("1"))
		o.handled("1")
		for range 4 {
			time.Sleep(24 * time.Hour)
		}
		require.Zero(t, o.times("1"))
		require.Equal(t, 1+3, o.times("2"))
		require.Equal(t, 1+3, o.times("3"))
		require.Equal(t, []string{"1 relayed", "2 relayed", "3 relayed", "1 handled"}, w.told())
	})
	inReceiptWorld(t, false, nil, func(w *nodeWorld) {
		o := w.office(r1)
		w.enqueue("1")
		o.handled("1")
		time.Sleep(10 * 24 * time.Hour)
		require.Equal(t, 1, o.times("1"))
		require.Empty(t, o.after())
		require.Empty(t, w.ends())
		require.False(t, w.status().Destinations[0].Receipts)
	})
}

// A transaction that a relay doubts, refuses or can't take now when it is left again stops
// nothing.
func TestOutboxSendsAgainInVain(t *testing.T) {
	inReceiptWorld(t, true, nil, func(w *nodeWorld) {
		o := w.office(r1)
		w.enqueue("1", "2", "3")
		time.Sleep(time.Hour)
		o.set(func() {
			clear(o.left)
			o.answers = map[string]wire.Error{"1": {Status: 413}, "2": {Status: 400, Code: "M_BAD_JSON"}}
		})
		time.Sleep(60 * time.Hour)
		require.Positive(t, o.times("3"))
		require.Positive(t, o.times("2"))
		require.Less(t, o.times("1"), 60*4+10, "as often as it may be tried")
	})
}

// For a destination that gives receipts nothing is dropped before; relays are asked seldom.
func TestOutboxKeepsUntilHandled(t *testing.T) {
	inReceiptWorld(t, true, func(c *client.NodeConfig) { c.Outbox.KeepRelayed = 2 }, func(w *nodeWorld) {
		o := w.office(r1)
		for i := range 10 {
			w.enqueue(fmt.Sprint(i))
		}
		time.Sleep(24 * time.Hour)
		require.Empty(t, w.ends())
		require.EqualValues(t, 10, w.status().Destinations[0].Waiting)
		asked := len(o.after())
		require.Greater(t, asked, 20)
		require.Less(t, asked, 60)
	})
}

// A receipt that comes while the transaction is handed over, and left at another relay, ends
// it once.
func TestOutboxHandledMeanwhile(t *testing.T) {
	inReceiptWorld(t, true, func(c *client.NodeConfig) { c.Sender.RelayTimeout = time.Hour }, func(w *nodeWorld) {
		o, slow := w.office(r1), w.office(r2)
		o.handled("1")
		taken := make(chan struct{})
		o.before = sync.OnceFunc(func() {
			w.net.AddHomeserver(b.ServerName)
			home := w.net.Host(b.ServerName)
			home.Latency = 3 * time.Second
			w.net.Set(b.ServerName, home)
			w.node.Seen(b.ServerName)
			time.Sleep(time.Second)
			time.AfterFunc(time.Second, func() { close(taken) })
		})
		slow.lost = func(string) bool {
			<-taken
			return true
		}
		w.enqueue("1")
		time.Sleep(2 * time.Minute)
		require.Equal(t, []string{"1 relayed", "1 handled"}, w.told())
		require.Equal(t, 1, slow.times("1"))
	})
}

// Receipts count though others of the same relay can't be had.
func TestOutboxReceiptsInPart(t *testing.T) {
	inReceiptWorld(t, true, nil, func(w *nodeWorld) {
		o := w.office(r1)
		o.set(func() {
			o.page = 2
			o.fails = func(after int64) *wire.Error {
				if after < 2 {
					return nil
				}
				return &wire.Error{Status: http.StatusInternalServerError}
			}
		})
		w.enqueue("1", "2", "3")
		o.handled("1", "2", "3")
		time.Sleep(2 * time.Hour)
		require.Equal(t, []string{"1 handled", "2 handled"}, w.ends())
		require.Less(t, len(o.after()), 20)
		o.set(func() { o.fails = nil })
		time.Sleep(2 * time.Hour)
		require.Equal(t, []string{"3 handled"}, w.ends())
	})
}

// A relay that keeps no receipts is asked once a day, however much it is given.
func TestOutboxAsksWhereNoneAreKept(t *testing.T) {
	inReceiptWorld(t, true, nil, func(w *nodeWorld) {
		o := w.office(r1)
		o.set(func() { o.fails = func(int64) *wire.Error { return wire.Unrecognized() } })
		for i := range 40 {
			w.enqueue(fmt.Sprint(i))
			time.Sleep(time.Hour)
		}
		require.LessOrEqual(t, len(o.after()), 4)
		o.set(func() { o.fails = nil })
		o.handled("1")
		time.Sleep(25 * time.Hour)
		require.Equal(t, []string{"1 handled"}, w.ends())
	})
}

// A relay's receipt for mail that it wasn't given doesn't count.
func TestOutboxReceiptForUnsent(t *testing.T) {
	inReceiptWorld(t, true, nil, func(w *nodeWorld) {
		o := w.office(r1)
		o.set(func() { o.answers = map[string]wire.Error{"2": {Status: 413}} })
		o.handled("1", "2")
		w.enqueue("1", "2")
		time.Sleep(3 * time.Hour)
		require.Equal(t, []string{"1 handled"}, w.ends())
	})
}
