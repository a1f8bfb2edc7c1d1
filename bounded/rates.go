package bounded

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/matrixrelay/relay/internal/address"
	"github.com/matrixrelay/relay/internal/allowance"
)

const (
	// ratesOf bounds the addresses whose rate is known.
	ratesOf = 10_000

	// restSeconds is for how many seconds' connections an address may save its rate up.
	restSeconds = 10

	// longestTurn is how long a connection may have to wait for its turn.
	longestTurn = 5 * time.Second
)

// newRates are those of new connections, by address.
func newRates(perSecond int) *allowance.Addresses {
	return allowance.New(ratesOf, address.Wide, rate.Limit(perSecond), perSecond*restSeconds)
}
