package relay

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A connection remembers which server has asked for its mail on it. A nil one remembers
// nothing. To leave mail isn't enough: its destination, which has the proof, can leave it
// once more, and its own requests would then count for the sender.
type connection struct {
	name atomic.Pointer[spec.ServerName]
}

type connectionKey struct{}

// ConnContext is for http.Server.ConnContext. With it, a connection on which a server
// has asked for its mail whose mailbox is promised to it counts for this server, and no
// longer for its address, which others may share and flood: see policy.Limits.
func ConnContext(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, &connection{})
}

// connectionOf returns the connection of a request from that address, nil if it can't
// be told: a proxy's connection carries requests of many.
func connectionOf(r *http.Request, client netip.Addr) *connection {
	c, _ := r.Context().Value(connectionKey{}).(*connection)
	if c == nil || client != RemoteAddress(r) {
		return nil
	}
	return c
}

func (c *connection) server() spec.ServerName {
	if c == nil {
		return ""
	}
	if name := c.name.Load(); name != nil {
		return *name
	}
	return ""
}

func (c *connection) belongsTo(server spec.ServerName) {
	if c != nil && c.server() != server {
		c.name.Store(&server)
	}
}
