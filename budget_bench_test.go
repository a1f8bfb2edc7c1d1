package relay

import (
	"net/netip"
	"testing"
	"time"

	"github.com/matrixrelay/relay/internal/address"
)

// BenchmarkLine gives memory back while 2,000 parties wait for some, each at an address of
// its own, and as many hold it: an operation is one release, and the next in line has it.
func BenchmarkLine(b *testing.B) {
	const parties = 2000
	memory := newBudget(parties * small)
	memory.grace, memory.patience = time.Hour, time.Hour
	begin := func(i int) *share {
		from := address.Of(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
		return memory.share(holder{from: from}, func() bool { return true })
	}
	held := make([]*share, parties)
	for i := range held {
		held[i] = begin(i)
		held[i].set(small, false)
	}
	served, waits := make(chan *share), make(chan int)
	for range parties {
		go func() {
			for i := range waits {
				s := begin(i)
				s.set(small, true)
				served <- s
			}
		}()
	}
	for i := range parties {
		waits <- parties + i
	}
	next := 2 * parties
	for b.Loop() {
		held[next%parties].release()
		held[next%parties] = <-served
		waits <- next
		next++
	}
	b.StopTimer()
	close(waits)
	for _, s := range held {
		s.release()
	}
	for range parties {
		(<-served).release()
	}
}
