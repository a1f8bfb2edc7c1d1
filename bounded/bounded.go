// Package bounded bounds the connections of a server by address, and fits them to the
// files that the process may open, so that strangers with many connections don't take
// those files, and the memory for connections, from everybody else. A relay also pauses
// connections that bring too many requests: see relay.ConnContext.
//
//	connections, waiting := bounded.Fit(bounded.DefaultConnections, relay.DefaultMaxWaiting)
//	...
//	err = web.Serve(bounded.Listen(listener, bounded.Options{Connections: connections}))
package bounded

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/address"
	"github.com/matrixrelay/relay/internal/allowance"
	"github.com/matrixrelay/relay/internal/crowd"
	"github.com/matrixrelay/relay/internal/defaults"
)

// DefaultConnections is how many connections are taken if nothing else is said. One takes
// about 30 KB before its first request is read.
const DefaultConnections = 24_000

// DefaultPerSecond is how many new connections of one address are taken each second if
// nothing else is said.
const DefaultPerSecond = 50

// Options of Listen. In numbers, zero means the default, and a negative one no limit.
type Options struct {
	// Connections bounds those that are open. One address (a /64 of IPv6) may have one
	// in 32 of them, and half where many parties can't be told apart, as in overlay
	// networks and at loopback. For one more the oldest is closed, of its own address if
	// that has as many as it may, else of the one that has most, where a /48 of IPv6
	// counts as an address with a sixteenth of its connections. A connection that counts
	// for a server (see relay.ConnContext) isn't one of its address. Zero:
	// DefaultConnections.
	Connections int

	// PerSecond bounds the new connections of one address a second, and of an overlay
	// network, loopback or a /48 of IPv6 at sixteen times that. After a rest ten times as
	// many may come at once. One that comes too soon isn't read before its turn; if that
	// is more than five seconds later, it is closed. Zero: DefaultPerSecond.
	PerSecond int

	// Unused bounds the bytes a second that one address sends and no request uses, such as
	// frames of HTTP/2 that carry nothing; an overlay network, loopback or a /48 of IPv6 has
	// four times that. After a rest 16 seconds' may come at once. Connections that bring more
	// aren't read for a while. Only a relay on a server with relay.ConnContext says which
	// bytes its requests use, so nothing else that takes more than small requests may have
	// such a bound. Zero: no limit.
	Unused int

	// Proxies are addresses whose connections aren't bounded by address, since they
	// bring many parties' requests. The zero Prefix stands for all connections that
	// have no IP address.
	Proxies []netip.Prefix

	// Refused is told of each connection that was closed, why, and from which address it
	// came; the zero Addr if from none. It must return soon, and not use the Listener. Nil:
	// nobody is told.
	Refused func(Reason, netip.Addr)

	// Address says from which address a connection came, the zero Addr if from none.
	// Nil: as its RemoteAddr says.
	Address func(net.Conn) netip.Addr
}

// A Reason says why a connection was closed.
type Reason string

const (
	// TooSoon is of a connection that came while its address had too many new ones.
	TooSoon Reason = "too_soon"

	// TooMany is of a connection that was open, and had to give its place to another.
	TooMany Reason = "too_many"
)

// A Listener bounds the connections that it accepts. Make one with Listen.
type Listener struct {
	net.Listener
	options Options
	rates   *allowance.Addresses
	http2   http2
	unused  *unused

	mu    sync.Mutex
	crowd *crowd.Crowd
}

var _ net.Listener = (*Listener)(nil)

// Listen returns a Listener that takes its connections from another one.
func Listen(l net.Listener, o Options) *Listener {
	defaults.Bounds(&o.Connections, DefaultConnections, noLimit)
	defaults.Bounds(&o.PerSecond, DefaultPerSecond, noRate)
	if o.Address == nil {
		o.Address = remoteAddress
	}
	if o.Refused == nil {
		o.Refused = func(Reason, netip.Addr) {}
	}
	return &Listener{
		Listener: l, options: o, rates: newRates(o.PerSecond), http2: http2{rates: newHTTP2Rates(), of: make(map[netip.Prefix]int)}, unused: newUnused(o.Unused), crowd: crowd.New(o.Connections, o.Connections, part),
	}
}

const (
	noLimit = 1 << 30
	noRate  = 1 << 20
)

func remoteAddress(c net.Conn) netip.Addr {
	at, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr()
}

// Open is how many connections are open.
func (l *Listener) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.crowd.Count()
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if limited := l.take(c); limited != nil {
			return limited, nil
		}
		_ = c.Close() // its owner has the error
	}
}

// take gives a connection its place and its turn, or returns nil.
func (l *Listener) take(c net.Conn) *conn {
	at := l.options.Address(c).Unmap()
	limited := &conn{paused: newPaused(c), listener: l, at: at, from: proxies}
	if !address.IsIn(at, l.options.Proxies) {
		limited.from = address.Of(at)
		wait, ok := l.rates.Take(at, longestTurn)
		if !ok {
			l.options.Refused(TooSoon, at)
			return nil
		}
		if wait > 0 {
			limited.Pause(wait)
		}
		limited.ofAddress = l.unused.of(at)
	}
	limited.countUnusedFor("")
	l.mu.Lock()
	defer l.mu.Unlock()
	limited.member = l.crowd.Join(limited.from, "", func() {
		_ = limited.paused.Close() // its owner closes it too, and has the error
		l.options.Refused(TooMany, at)
	})
	return limited
}

// proxies are one party, which may take all places.
var proxies = address.From{Host: everywhere, Site: everywhere, Shared: true}

var everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)

func part(from address.From) int {
	if from == proxies {
		return 1
	}
	return crowd.Part(from)
}

// A conn gives up its place when it is closed.
type conn struct {
	*paused
	listener *Listener
	at       netip.Addr
	from     address.From
	member   *crowd.Member

	isHTTP2, isClosed bool // under the lock of http2

	ofAddress []*account
	unused    atomic.Pointer[[]*account] // that it counts for now
}

// CountFor has the connection count for a server, from any address, or for
// its address again if the name is empty: see relay.ConnContext.
func (c *conn) CountFor(server spec.ServerName) {
	from := c.from
	if server != "" {
		from = address.OfServer(string(server))
	}
	c.countUnusedFor(server)
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.listener.crowd.Move(c.member, from, "")
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.listener.mu.Lock()
	c.listener.crowd.Leave(c.member)
	c.listener.mu.Unlock()
	c.listener.http2.end(c)
	return c.paused.Close()
}
