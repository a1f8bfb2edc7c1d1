package relay

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/address"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/wire"
)

// The gate is the first stage: it refuses requests before their body is read, where it
// can, and knows which requests are inside.
type gate struct {
	address  func(*http.Request) netip.Addr
	verifier *wire.Verifier
	policy   policy.Policy
	local    func(spec.ServerName) bool // is mail for it handed to the embedder?
	enabled  atomic.Bool

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

func (g *gate) isClosed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

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

// arrive refuses a request of which nothing was read, or begins to read it.
func (g *gate) arrive(r *http.Request, q *request) error {
	from := g.address(r)
	q.from = address.Of(from)
	q.admission = admission{policy: g.policy, asked: policy.Request{Address: from}}
	if err := q.admission.arrived(r); err != nil {
		return err
	}
	q.admission.on.use(headBytes)
	return nil
}

// pass refuses a request that has arrived, or finds its route.
func (g *gate) pass(r *http.Request, q *request) (err error) {
	uri, _ := wire.SignedURI(r)
	q.SignedRequest = wire.SignedRequest{Method: r.Method, URI: uri, Authorization: r.Header.Values("Authorization")}
	endpoint, ok := wire.ParseEndpoint(uri)
	q.route.Endpoint = endpoint
	origin, unclaimed := q.Claimed()
	if endpoint != wire.Info { // which isn't signed
		q.admission.on.carries(origin)
	}
	if !g.enabled.Load() || !ok {
		return wire.Unrecognized()
	}
	if !endpoint.Takes(q.Method) {
		return &wire.Error{
			Status: http.StatusMethodNotAllowed, Code: spec.ErrorUnrecognized,
			Message: "the method is not allowed here", Allow: strings.Join(endpoint.Methods(), ", "),
		}
	}
	if q.route, err = wire.ParseURI(q.URI); err != nil {
		q.route.Endpoint = endpoint
		return err
	}
	if endpoint == wire.Info {
		return nil
	}
	if unclaimed != nil {
		return unclaimed
	}
	asked := &q.admission.asked
	asked.Endpoint, asked.Origin, asked.Destination = endpoint, origin, origin
	if named := q.route.Destination(); named != "" {
		asked.Destination = named
	}
	asked.Local = g.local(asked.Destination)
	asked.Keeps = q.Method == http.MethodPut && (endpoint == wire.Relays || endpoint == wire.Receipts)
	if err := q.admission.ask(r.Context(), policy.Claimed); err != nil {
		return err
	}
	return g.verifier.CheckHeader(&q.SignedRequest)
}

var errShuttingDown = error(&wire.Error{
	Status: http.StatusServiceUnavailable, Code: spec.ErrorUnknown, Message: "shutting down",
})
