package relay

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/wire"
)

// refusalPause is how long a request over its share waits for the answer that says so.
// A client that asks again at once then asks once in that time on each connection, and
// one that obeys loses nothing: it is told to come back later than that. It is shorter
// than the second after which clients that expect a 100 send their body without it.
const refusalPause = time.Second / 2

// pauses are the requests that wait for such an answer.
type pauses struct {
	places chan struct{} // those beyond them are answered at once
	over   chan struct{}
	end    func() // may be called more than once
}

func newPauses(most int) *pauses {
	over := make(chan struct{})
	return &pauses{
		places: make(chan struct{}, max(most, 0)),
		over:   over, end: sync.OnceFunc(func() { close(over) }),
	}
}

// hold returns when the pause is over.
func (p *pauses) hold(ctx context.Context, q *request) {
	select {
	case p.places <- struct{}{}:
		defer func() { <-p.places }()
	default:
		return
	}
	began, timer := time.Now(), time.NewTimer(refusalPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-p.over:
	}
	q.held += time.Since(began)
}

// isOverShare reports whether a request was refused, unread, because others of its
// address or name have used their share.
func isOverShare(q *request, err error) bool {
	var e *wire.Error
	return q.admission.asked.Stage < policy.Signed && errors.Is(err, errPolicy) &&
		errors.As(err, &e) && e != nil && e.Status == http.StatusTooManyRequests
}
