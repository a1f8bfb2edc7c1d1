package relay

import (
	"sync"
	"time"

	"github.com/matrixrelay/relay/internal/address"
	"github.com/matrixrelay/relay/wire"
)

// maxBusy is how many requests of one address are worked on at once, besides those that
// wait for mail or for their refusal. HTTP/2 can bring thousands, and each that finds the
// store busy keeps its stack.
const maxBusy = 256

// errBusy refuses one more.
var errBusy = error(wire.LimitExceeded("too many requests of this address at once", time.Second))

// busy are the requests that are worked on.
type busy struct {
	mu sync.Mutex
	of map[address.From]int
}

func newBusy() *busy { return &busy{of: make(map[address.From]int)} }

// enter counts a request in, which must leave.
func (b *busy) enter(q *request) error {
	from, most := q.holder().from, maxBusy
	if from.Shared {
		most *= address.Wide
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.of[from] >= most {
		return errBusy
	}
	b.of[from]++
	q.isBusy = true
	return nil
}

// leave counts a request out. It may be called more than once, and without enter.
func (b *busy) leave(q *request) {
	if !q.isBusy {
		return
	}
	q.isBusy = false
	from := q.holder().from
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.of[from]--; b.of[from] == 0 {
		delete(b.of, from)
	}
}
