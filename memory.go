package relay

import (
	"net/http"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/address"
)

// firstRead is the memory that a body gets before it has sent anything, and an
// answer always, outside of the budget: little, so that connections that dribble
// cost little.
const firstRead = 2 << 10

// The memory that transfers share: in is for bodies of requests, out for answers. It
// alone cuts transfers off.
type memory struct{ in, out *budget }

func newMemory(bytes int64) memory {
	m := memory{newBudget(bytes), newBudget(bytes)}
	m.in.ofParty = (m.in.total - m.in.forSmall) / 2
	return m
}

// A holder is the party that memory, checks, waits and repeats are charged to: the
// address that a request comes from, or the server that its connection counts for, and
// the server that the request names as its own.
type holder struct {
	from address.From
	name spec.ServerName
}

// takeIn begins the transfer of a request's body. To cut it off, its next read is
// made to fail, where the server can do that.
func (m memory) takeIn(w http.ResponseWriter, by holder) *share {
	c := http.NewResponseController(w)
	return m.in.share(by, func() bool { return c.SetReadDeadline(longAgo) == nil })
}

// handOut begins the transfer of an answer, likewise.
func (m memory) handOut(w http.ResponseWriter, to holder) *share {
	c := http.NewResponseController(w)
	return m.out.share(to, func() bool { return c.SetWriteDeadline(longAgo) == nil })
}

var longAgo = time.Unix(1, 0)

// cutAll cuts off all transfers that can be, and those that begin later.
func (m memory) cutAll() {
	m.in.cutAll()
	m.out.cutAll()
}
