package bounded

import (
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"github.com/matrixrelay/relay/internal/address"
	"github.com/matrixrelay/relay/internal/table"
)

const (
	// ratesOf bounds the addresses whose rate is known.
	ratesOf = 10_000

	// restSeconds is for how many seconds' connections an address may save its rate up.
	restSeconds = 10

	// longestTurn is how long a connection may have to wait for its turn.
	longestTurn = 5 * time.Second
)

// rates are those of new connections, by address.
type rates struct {
	of *table.Addresses[rate.Limiter]
}

func newRates(perSecond int) rates {
	return rates{table.NewAddresses(ratesOf, address.Wide, func(times int) *rate.Limiter {
		return rate.NewLimiter(rate.Limit(perSecond*times), perSecond*times*restSeconds)
	})}
}

// turn says how long a new connection from an address has to wait, ok false if that is
// too long.
func (r rates) turn(at netip.Addr) (wait time.Duration, ok bool) {
	now := time.Now()
	var taken []*rate.Reservation
	for _, limiter := range r.of.Of(at) {
		one := limiter.ReserveN(now, 1)
		taken, wait = append(taken, one), max(wait, one.DelayFrom(now))
	}
	if wait <= longestTurn {
		return wait, true
	}
	for _, one := range taken {
		one.CancelAt(now)
	}
	return 0, false
}
