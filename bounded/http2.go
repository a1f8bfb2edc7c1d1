package bounded

import (
	"crypto/tls"
	"net/netip"
	"slices"
	"sync"

	"github.com/matrixrelay/relay/internal/address"
	"github.com/matrixrelay/relay/internal/allowance"
)

// maxHTTP2 is how many connections may be HTTP/2, where a client has many requests under way
// on each. One whose answer it doesn't read takes about 18 KB. Of these connections an
// address has one in ofAddress, a /48 one in ofShared, and so has a network of many parties.
const (
	maxHTTP2  = 512
	ofAddress = 32
	ofShared  = 8
)

// http2PerSecond is how many new ones an address has a second; ten times that after a rest,
// and sharedTimes as many where parties can't be told apart. Each may bring some hundred
// requests before the first of them is refused.
const http2PerSecond = 2

// newHTTP2Rates are by address.
func newHTTP2Rates() *allowance.Addresses {
	return allowance.New(ratesOf, sharedTimes, http2PerSecond, http2PerSecond*restSeconds)
}

// BoundHTTP2 returns a copy of a server's TLS configuration with which only so many
// connections of the Listener are HTTP/2: 512, one in 32 of them for one address, and one in
// eight for a /48 of IPv6, or where many parties can't be told apart. An address has two new
// ones a second, 20 at once after a rest. Others are HTTP/1.1, where a connection has one
// request at a time. Those of Options.Proxies aren't counted. The configuration must have no
// GetConfigForClient of its own.
func (l *Listener) BoundHTTP2(config *tls.Config) *tls.Config {
	bound, plain := config.Clone(), config.Clone()
	plain.NextProtos = []string{"http/1.1"}
	bound.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c, ours := hello.Conn.(*conn)
		if ours && slices.Contains(hello.SupportedProtos, "h2") && !l.http2.begin(c) {
			return plain, nil
		}
		return nil, nil // as it is
	}
	return bound
}

// http2 counts the connections that may be HTTP/2.
type http2 struct {
	rates *allowance.Addresses

	mu  sync.Mutex
	all int
	of  map[netip.Prefix]int // hosts and sites
}

// mostHTTP2 is how many connections of an address may be HTTP/2, and of its site.
func mostHTTP2(from address.From) map[netip.Prefix]int {
	most := map[netip.Prefix]int{from.Site: maxHTTP2 / ofShared}
	if !from.Shared {
		most[from.Host] = maxHTTP2 / ofAddress
	}
	return most
}

// begin counts a connection, if it may be one.
func (h *http2) begin(c *conn) bool {
	if c.from == proxies {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.isClosed || h.all >= maxHTTP2 {
		return false
	}
	places := mostHTTP2(c.from)
	for at, most := range places {
		if h.of[at] >= most {
			return false
		}
	}
	if _, ok := h.rates.Take(c.at, 0); !ok {
		return false
	}
	c.isHTTP2 = true
	h.all++
	for at := range places {
		h.of[at]++
	}
	return true
}

// end counts a connection that is closed no more.
func (h *http2) end(c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c.isClosed = true
	if !c.isHTTP2 {
		return
	}
	c.isHTTP2 = false
	h.all--
	for at := range mostHTTP2(c.from) {
		if h.of[at]--; h.of[at] == 0 {
			delete(h.of, at)
		}
	}
}
