package relay

import (
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/table"
	"github.com/matrixrelay/relay/wire"
)

const (
	// repeatCost is the cost of each byte that is fetched again, so that 256 KiB a second
	// are free. An address has four times that for all its names.
	repeatCost      = time.Second / (256 << 10)
	namesAtAddress  = 4
	repeatSlowAfter = 64 * time.Second  // as 16 MiB cost: from then on one entry at a time
	repeatNotAfter  = 128 * time.Second // as 32 MiB cost: 429

	// maxHandedOut bounds the mailboxes whose last handed-out entry is known.
	maxHandedOut = 10_000
)

// repeats charge receivers for mail that they fetch again and again without
// acknowledging it: it costs them nothing, and the relay its disk and processor. Some
// of it is honest: answers get lost, and deployed nodes may fetch twice at once.
type repeats struct {
	names     *debts[spec.ServerName]
	addresses addressDebts

	mu     sync.Mutex
	handed *table.Table[spec.ServerName, int64] // the last entry that was handed out
}

func newRepeats() *repeats {
	return &repeats{newDebts[spec.ServerName](), newAddressDebts(), sync.Mutex{}, table.New[spec.ServerName, int64](maxHandedOut)}
}

// may says whether a receiver gets an answer now, and one with more than one entry. One
// that has just acknowledged some gets one entry at least. The error is a *wire.Error,
// 429.
func (r *repeats) may(by holder, acknowledged bool) (batch bool, err error) {
	owed := r.names.owed(by.name)
	if !by.from.Shared {
		owed = max(owed, r.addresses.owed(by.from))
	}
	if owed > repeatNotAfter && !acknowledged {
		return false, wire.LimitExceeded("this mail was fetched again and again without being acknowledged", wholeSeconds(owed-repeatNotAfter))
	}
	return owed <= repeatSlowAfter, nil
}

// A given is an entry in an answer, and how many bytes it has there.
type given struct {
	id    int64
	bytes int
}

// charge is told of the entries that a receiver gets, in order. Bytes that it gets for the
// first time pay for as many that it gets again.
func (r *repeats) charge(by holder, entries []given) {
	last := r.handOut(by.name, entries[len(entries)-1].id)
	var cost time.Duration
	for _, entry := range entries {
		size := time.Duration(entry.bytes)
		if entry.id > last {
			size = -size
		}
		cost += size * repeatCost
	}
	r.names.add(by.name, cost)
	r.addresses.add(by.from, cost/namesAtAddress)
}

// handOut notes the last entry that is handed out, and returns that of earlier answers.
func (r *repeats) handOut(name spec.ServerName, id int64) (last int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, _ = r.handed.Get(name) // 0 if it isn't known
	r.handed.Set(name, max(last, id))
	return last
}
