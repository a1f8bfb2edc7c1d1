package relay

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/address"
)

// waiting has a transfer wait for so much, and notes whether it got that.
func waiting(s *transferred, bytes int64) *atomic.Bool {
	got := new(atomic.Bool)
	go func() { got.Store(s.set(bytes, true)) }()
	synctest.Wait()
	return got
}

// The party that would hold least comes first, though it came last, and those that are
// equal in the order in which they came.
func TestLeastComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(40 * mib)
		var held []*share
		for range 3 {
			s := b.share(at(1, "held"), nil)
			require.True(t, s.set(10*mib, false))
			held = append(held, s)
		}
		much := waiting(start(b, at(2, "much")), 9*mib)
		little, same := waiting(start(b, at(3, "little")), 6*mib), waiting(start(b, at(4, "same")), 6*mib)
		held[0].release()
		synctest.Wait()
		require.Equal(t, []bool{true, false, false}, []bool{little.Load(), same.Load(), much.Load()})
		held[1].release()
		synctest.Wait()
		require.Equal(t, []bool{true, true, false}, []bool{little.Load(), same.Load(), much.Load()})
		held[2].release()
		synctest.Wait()
		require.True(t, much.Load())
		require.Empty(t, b.large.shares)
	})
}

// An address has half of the room for large bodies, and one in any case. Its others wait for
// it, and nobody waits for them; small ones don't count, nor do parties that can't be told
// apart.
func TestLargeOfOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory(40 * mib).in
		first := begin(t, b, at(1, "a"), 10*mib)
		small := begin(t, b, at(1, "small"), 256<<10)
		waits := start(b, at(1, "b"))
		got := waiting(waits, 10*mib)
		require.False(t, got.Load())
		begin(t, b, at(1, "c"), 5*mib)
		other := begin(t, b, at(2, "other"), 14*mib)
		other.release()
		first.release()
		synctest.Wait()
		require.True(t, got.Load())
		require.False(t, start(b, at(1, "d")).set(mib, true), "it waits in vain")
		waits.release()
		small.release()
		begin(t, b, at(3, "alone"), 24*mib).release()
		overlay := holder{address.Of(netip.MustParseAddr("200::1")), "o"}
		begin(t, b, overlay, 12*mib)
		begin(t, b, overlay, 12*mib)
	})
}

// When a transfer gives up waiting, those behind it have their turn, for which there may
// be room already; and so they have when it is cut off.
func TestThoseBehindHaveTheirTurn(t *testing.T) {
	for name, end := range map[string]func(b *budget, first *transferred){
		"gives up": func(*budget, *transferred) { time.Sleep(patience / 2) },
		"is cut off": func(b *budget, first *transferred) {
			b.mu.Lock()
			first.end()
			b.mu.Unlock()
			time.Sleep(2 * time.Millisecond)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBudget(40 * mib)
			require.True(t, b.share(at(1, "held"), nil).set(23*mib, false))
			first, next := start(b, at(2, "first")), begin(t, b, at(3, "next"), 3*mib)
			gotFirst := waiting(first, 5*mib)
			time.Sleep(patience / 2)
			synctest.Wait()
			gotNext := waiting(next, 6*mib)
			require.False(t, gotNext.Load(), name)
			end(b, first)
			synctest.Wait()
			require.True(t, gotNext.Load(), name)
			require.False(t, gotFirst.Load(), name)
		})
	}
}

// While one that is cut off comes to its end, no other of its address is cut off.
func TestOneIsCutAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(40 * mib)
		cut := make(map[string]int)
		flood := func(name string, bytes int64) *share {
			s := b.share(at(1, spec.ServerName(name)), func() bool { cut[name]++; return true })
			require.True(t, s.set(bytes, false))
			return s
		}
		first, second := flood("much", 6*mib), flood("much", 6*mib)
		flood("less", 10*mib)
		require.True(t, b.share(at(2, "other"), nil).set(6*mib, false))
		got := waiting(start(b, at(3, "one")), 9*mib)
		require.True(t, second.set(mib, false), "now the other name has more")
		synctest.Wait()
		require.False(t, got.Load())
		require.Equal(t, map[string]int{"much": 1}, cut)
		first.release()
		synctest.Wait()
		require.True(t, got.Load())
		require.Equal(t, map[string]int{"much": 1}, cut)
	})
}

// A phone that has been at it for long isn't cut off for an address whose other transfers
// hold more, though these have their grace yet; one that holds nothing else has its turn.
func TestPhoneIsNotCutForFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(40 * mib)
		phone := begin(t, b, at(1, "phone"), 2*mib)
		time.Sleep(time.Hour)
		for range 2 {
			begin(t, b, at(2, "flood"), 13*mib)
		}
		require.False(t, start(b, at(2, "flood")).set(10*mib, true))
		require.False(t, phone.isOver)
		b = newBudget(40 * mib)
		for i := range byte(30) {
			begin(t, b, at(i, "slow"), mib)
		}
		time.Sleep(grace)
		require.True(t, start(b, at(200, "large")).set(mib, true))
	})
}

// One that can't be cut off, since its connection has no deadlines, is passed over.
func TestUncuttableIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(40 * mib)
		tried := 0
		fixed := b.share(at(1, "flood"), func() bool { tried++; return false })
		require.True(t, fixed.set(10*mib, false))
		other := begin(t, b, at(1, "flood"), 20*mib)
		got := waiting(start(b, at(2, "one")), mib)
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		require.True(t, got.Load())
		require.True(t, other.isOver)
		require.Equal(t, 1, tried)
	})
}
