package relay

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/matrixrelay/relay/internal/address"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/wire"
)

const (
	// refusalPause is how long a request over its share waits for the answer that says so,
	// at least. A client that asks again at once then asks once in that time on each
	// connection, and one that obeys loses nothing: it is told to come back later than
	// that. It is shorter than the second after which clients that expect a 100 send
	// their body without it.
	refusalPause = time.Second / 2

	// refusalCost is how much longer the next one of its address waits, so that an address
	// has hardly more refusals a second than this fits into one, on however many
	// connections. longestPause bounds that.
	refusalCost  = time.Second / 128
	longestPause = 10 * time.Second
)

// pauses are the requests that wait for such an answer. On a connection that can be
// paused itself none waits: its next request is read later.
type pauses struct {
	debts  addressDebts
	places chan struct{} // those beyond them are answered at once
	over   chan struct{}
	end    func() // may be called more than once
}

func newPauses(most int) *pauses {
	over := make(chan struct{})
	return &pauses{
		debts: newAddressDebts(), places: make(chan struct{}, max(most, 0)),
		over: over, end: sync.OnceFunc(func() { close(over) }),
	}
}

// next is how long a refused request from there waits.
func (p *pauses) next(from address.From) time.Duration {
	cost := refusalCost
	if from.Shared {
		cost /= address.Wide
	}
	pause := min(refusalPause+p.debts.owed(from), longestPause)
	p.debts.add(from, cost)
	return pause
}

// hold returns when the pause is over, or at once if the connection is paused.
func (p *pauses) hold(ctx context.Context, q *request) {
	pause := p.next(q.holder().from)
	if q.admission.on.pause(pause) {
		return
	}
	select {
	case p.places <- struct{}{}:
		defer func() { <-p.places }()
	default:
		return
	}
	began, timer := time.Now(), time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-p.over:
	}
	q.held += time.Since(began)
}

// isOverShare reports whether a request was refused because others of its address or name
// have used their share: unread, or unchecked.
func isOverShare(q *request, err error) bool {
	var e *wire.Error
	if errors.Is(err, errBusy) || errors.Is(err, errManyWrong) {
		return true
	}
	return q.admission.asked.Stage < policy.Signed && errors.Is(err, errPolicy) &&
		errors.As(err, &e) && e != nil && e.Status == http.StatusTooManyRequests
}
