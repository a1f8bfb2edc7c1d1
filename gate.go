package relay

import (
	"context"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/address"
	"github.com/matrixrelay/relay/wire"
)

// The gate is the first stage: it refuses requests before their body is read, where it
// can, and knows which requests are inside.
type gate struct {
	address func(*http.Request) netip.Addr
	admit   func(ctx context.Context, origin, destination spec.ServerName) error
	enabled atomic.Bool

	mu       sync.Mutex
	closed   bool
	requests sync.WaitGroup
}

// enter counts a request in, which must leave, unless the gate is closed.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.requests.Add(1)
	return true
}

func (g *gate) leave() { g.requests.Done() }

// close lets no more requests in. The channel is closed when all have left.
func (g *gate) close() (empty <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	done := make(chan struct{})
	go func() {
		g.requests.Wait()
		close(done)
	}()
	return done
}

// pass refuses a request, or finds its route.
func (g *gate) pass(r *http.Request, q *request) (err error) {
	q.from = address.Of(g.address(r))
	endpoint, ok := wire.ParseEndpoint(q.URI)
	if !g.enabled.Load() || !ok {
		return wire.Unrecognized()
	}
	if q.Method != endpoint.Method() {
		return &wire.Error{
			Status: http.StatusMethodNotAllowed, Code: spec.ErrorUnrecognized,
			Message: "the method is not allowed here", Allow: endpoint.Method(),
		}
	}
	if q.route, err = wire.ParseURI(q.URI); err != nil {
		return err
	}
	origin, err := q.Claimed()
	if err != nil || endpoint == wire.RelayTxn {
		return err
	}
	return g.admit(r.Context(), origin, q.route.Destination())
}

var errShuttingDown = error(&wire.Error{
	Status: http.StatusServiceUnavailable, Code: spec.ErrorUnknown, Message: "shutting down",
})
