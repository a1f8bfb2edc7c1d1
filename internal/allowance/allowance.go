// Package allowance gives each address so many of something a time.
package allowance

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/matrixrelay/relay/internal/table"
)

// Addresses are the rates of addresses, and of their sites. They are safe for concurrent
// use. Make them with New.
type Addresses struct {
	mu sync.Mutex
	of *table.Addresses[rate.Limiter]
}

// New returns the rates of so many addresses. One address has the limit and the burst, a
// site wide times as much.
func New(parties, wide int, limit rate.Limit, burst int) *Addresses {
	return &Addresses{of: table.NewAddresses(parties, wide, func(times int) *rate.Limiter {
		return rate.NewLimiter(limit*rate.Limit(times), burst*times)
	})}
}

// Take takes one for an address. Wait is how long it takes until it has that; if it is
// longer than within, ok is false and nothing is taken. Of several at once no more are taken
// than there are.
func (a *Addresses) Take(from netip.Addr, within time.Duration) (wait time.Duration, ok bool) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	var taken []*rate.Reservation
	for _, one := range a.of.Of(from) {
		reserved := one.ReserveN(now, 1)
		taken, wait = append(taken, reserved), max(wait, reserved.DelayFrom(now))
	}
	if wait <= within {
		return wait, true
	}
	for _, one := range taken {
		one.CancelAt(now) // wholly, since nobody else has taken any meanwhile
	}
	return wait, false
}
