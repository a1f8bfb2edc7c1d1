package relaytest

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A Network is an http.RoundTripper that brings requests for
// matrix://server/path to its servers. It is safe for concurrent use.
//
// It takes the server that asks from the request's X-Matrix header; a request
// without one (for keys) comes from nowhere, and no link of it can be cut.
type Network struct {
	loopback *http.Transport // for hosts that have an Address

	mu      sync.Mutex
	closed  bool
	hosts   map[spec.ServerName]Host
	asked   map[spec.ServerName]int
	offline map[spec.ServerName]bool
	cut     map[link]bool
	trips   map[*trip]struct{}
	relays  []*Relay

	underWay sync.WaitGroup // trips to handlers, and requests that arrive late
}

// A Host is a server on a Network. The zero value is one that refuses
// connections.
type Host struct {
	// Handler answers requests. Its http.ResponseWriter has no deadlines and
	// sends nothing before the handler returns.
	Handler http.Handler

	// Address is used if Handler is nil: the host:port of a web server on this
	// machine.
	Address string

	// Latency is how long a request is on its way, and its answer.
	Latency time.Duration

	// Hangs makes requests wait for the end of their context.
	Hangs bool

	// Lose, if it isn't nil, decides whether the request gets lost, or the answer
	// to one that was served. Either is an error for the server that asks. See
	// Lossy.
	Lose func() (request, answer bool)

	// Late, if it isn't nil, says how long after it got lost a request to a
	// Handler arrives all the same, when nobody waits for its answer. Zero:
	// never.
	Late func() time.Duration
}

// A link is two servers, in the order of their names.
type link struct{ a, b spec.ServerName }

func linkOf(a, b spec.ServerName) link { return link{min(a, b), max(a, b)} }

// Why a request failed, for errors.Is.
var (
	ErrRefused = errors.New("connection refused")
	ErrOffline = errors.New("the network can't be reached")
	ErrLost    = errors.New("got lost")
	ErrClosed  = errors.New("the network is closed")
)

// NewNetwork returns a network without servers.
func NewNetwork() *Network {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.MaxIdleConnsPerHost = 256
	return &Network{
		loopback: transport,
		hosts:    make(map[spec.ServerName]Host), asked: make(map[spec.ServerName]int),
		offline: make(map[spec.ServerName]bool), cut: make(map[link]bool),
		trips: make(map[*trip]struct{}),
	}
}

// Set puts a server on the network, or changes it, for requests that begin from
// then on.
func (n *Network) Set(server spec.ServerName, host Host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[server] = host
}

// Host returns a server of the network.
func (n *Network) Host(server spec.ServerName) Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hosts[server]
}

// Asked returns how many requests were made to a server, also in vain.
func (n *Network) Asked(server spec.ServerName) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[server]
}

// SetOffline takes a server off the network, or brings it back. While it is off,
// neither its requests nor those to it arrive; requests under way break.
func (n *Network) SetOffline(server spec.ServerName, offline bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.offline[server] = offline
	n.breakOff()
}

// SetLink cuts the link between two servers, or mends it. While it is cut, none
// reaches the other; requests under way break.
func (n *Network) SetLink(a, b spec.ServerName, up bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[linkOf(a, b)] = !up
	n.breakOff()
}

// breakOff ends the trips that can't go on. It is called with the lock held.
func (n *Network) breakOff() {
	for t := range n.trips {
		if err := n.unreachable(t.from, t.to); err != nil {
			t.cancel(err)
		}
	}
}

// unreachable says why one server can't reach another, nil if it can. It is
// called with the lock held.
func (n *Network) unreachable(from, to spec.ServerName) error {
	switch {
	case n.closed:
		return fmt.Errorf("relaytest: %s: %w", to, ErrClosed)
	case n.offline[from]:
		return fmt.Errorf("relaytest: %s is offline: %w", from, ErrOffline)
	case n.offline[to]:
		return fmt.Errorf("relaytest: %s is offline: %w", to, ErrOffline)
	case n.cut[linkOf(from, to)]:
		return fmt.Errorf("relaytest: no link from %s to %s: %w", from, to, ErrOffline)
	}
	return nil
}

// CloseIdleConnections closes connections to hosts with an Address that no
// request uses.
func (n *Network) CloseIdleConnections() { n.loopback.CloseIdleConnections() }

// Close breaks the requests under way, waits until their handlers have returned,
// and closes the relays that were added. It may be called more than once.
func (n *Network) Close() error {
	n.mu.Lock()
	n.closed = true
	n.breakOff()
	relays := slices.Clone(n.relays)
	n.mu.Unlock()
	n.underWay.Wait()
	n.CloseIdleConnections()
	var err error
	for _, r := range relays {
		err = errors.Join(err, r.Close())
	}
	return err
}
