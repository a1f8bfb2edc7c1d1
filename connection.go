package relay

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A connection remembers which server has asked for its mail on it, while all requests
// on it were in the name of that server. A nil one remembers nothing. To leave mail isn't
// enough: its destination, which has the proof, can leave it once more, and its own
// requests would then count for the sender.
type connection struct {
	mu    sync.Mutex
	from  spec.ServerName // that all requests named as their origin; empty if there was none
	ofAll bool            // requests of several servers came, or of none: a proxy's, perhaps
	asked bool            // from has signed, asks for its mail, and has a mailbox
	proxy bool            // it is one of the operator's own proxies

	place    place           // or nil
	countFor spec.ServerName // as it was told
}

// A place is that of a connection among all: a bounded.Listener gives them.
type place interface {
	CountFor(server spec.ServerName)
	Pause(time.Duration)
	Use(bytes int)
}

// Of the bytes that come on a connection, those of a request's head are about as many, and
// each body or answer has some more around it: frames, records and acknowledgements.
const (
	headBytes  = 1 << 10
	aroundBody = 16 // one in so many
	readAnswer = 32
)

type connectionKey struct{}

// ConnContext is for http.Server.ConnContext. With it, a connection on which a server
// has asked for its mail whose mailbox is promised to it counts for this server, and no
// longer for its address, which others may share and flood: see policy.Limits. That ends
// with the first request on it that another server could have sent: then the connection
// is that of a proxy. A bounded.Listener counts the connection likewise, and doesn't read
// one for a while whose requests are over their share.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = wrapped.NetConn()
	}
	c := &connection{}
	c.place, _ = conn.(place)
	return context.WithValue(ctx, connectionKey{}, c)
}

// proxyHeaders are written by proxies, also by those that nobody has named to us.
var proxyHeaders = []string{"Forwarded", "Via", "X-Forwarded-For", "X-Real-Ip"}

// connectionOf returns the connection of a request from that address, or nil. A proxy's
// carries requests of many.
func connectionOf(r *http.Request, client netip.Addr) *connection {
	c := anyConnectionOf(r)
	isProxied := func(name string) bool { return r.Header[name] != nil }
	switch {
	case client != RemoteAddress(r):
		c.isOfProxy()
	case slices.ContainsFunc(proxyHeaders, isProxied):
		c.isOfAll()
	}
	return c
}

func anyConnectionOf(r *http.Request) *connection {
	c, _ := r.Context().Value(connectionKey{}).(*connection)
	return c
}

// isOfAll says that requests of many come on the connection.
func (c *connection) isOfAll() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ofAll = true
	c.count()
}

// isOfProxy says that the connection is that of one of the operator's own proxies.
func (c *connection) isOfProxy() {
	if c == nil {
		return
	}
	c.isOfAll()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.proxy = true
}

// server is the server that the connection counts for, if there is one.
func (c *connection) server() spec.ServerName {
	if c == nil {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.owner()
}

func (c *connection) owner() spec.ServerName {
	if !c.asked || c.ofAll {
		return ""
	}
	return c.from
}

// count has the place count for the owner.
func (c *connection) count() {
	if owner := c.owner(); c.place != nil && c.countFor != owner {
		c.countFor = owner
		c.place.CountFor(owner)
	}
}

// carries notes a request that names a server as its origin, or none.
func (c *connection) carries(origin spec.ServerName) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if origin == "" || c.from != "" && c.from != origin {
		c.ofAll = true
	}
	c.from = origin
	c.count()
}

// belongsToOrigin has the connection count for the server that its requests come from.
func (c *connection) belongsToOrigin() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = true
	c.count()
}

// use says that a request uses bytes that came on the connection.
func (c *connection) use(bytes int) {
	if c != nil && c.place != nil {
		c.place.Use(bytes)
	}
}

// pause stops the reading of the connection for that long, and reports whether it can. On
// one of a proxy, others would wait, too.
func (c *connection) pause(d time.Duration) bool {
	if c == nil || c.place == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proxy {
		return false
	}
	c.place.Pause(d)
	return true
}
