package bounded

import (
	"net/netip"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/table"
)

const (
	// unusedSeconds is for how many seconds an address may save its rate up. Bytes that
	// HTTP/2 reads ahead of a request that uses them count meanwhile.
	unusedSeconds = 16

	// sharedTimes is how many times as much an overlay network, loopback or a /48 has.
	sharedTimes = 4

	// longestUnused bounds the pause of a connection.
	longestUnused = time.Minute
)

// unused limits the bytes that come from an address, or from a server whose connection it
// is, and that no request uses: frames of HTTP/2 and records of TLS that carry nothing, and
// bodies that nobody reads. They take processor time, and no limit of requests counts them.
// The zero value has no limit.
type unused struct {
	perSecond int
	addresses *table.Addresses[account]

	mu      sync.Mutex
	servers *table.Table[spec.ServerName, *account]
}

func newUnused(perSecond int) *unused {
	if perSecond <= 0 {
		return &unused{}
	}
	return &unused{
		perSecond: perSecond,
		addresses: table.NewAddresses(ratesOf, sharedTimes, func(times int) *account { return &account{perSecond: perSecond * times} }),
		servers:   table.New[spec.ServerName, *account](ratesOf),
	}
}

// of returns the accounts of an address.
func (u *unused) of(at netip.Addr) []*account {
	if u.perSecond == 0 {
		return nil
	}
	return u.addresses.Of(at)
}

// ofServer returns those of a server.
func (u *unused) ofServer(name spec.ServerName) []*account {
	if u.perSecond == 0 {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return []*account{u.servers.Find(name, func() *account { return &account{perSecond: u.perSecond} })}
}

// An account has the bytes of one of them.
type account struct {
	perSecond int

	mu   sync.Mutex
	owed float64 // bytes at that time, none of them used
	at   time.Time
}

// add counts bytes that came or, if they are negative, that are used after all. It returns
// how long the next must wait.
func (a *account) add(bytes float64) time.Duration {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	passed, rate := max(now.Sub(a.at).Seconds(), 0), float64(a.perSecond)
	free := rate * unusedSeconds
	a.owed = max(a.owed-passed*rate, 0) + bytes
	a.owed, a.at = min(max(a.owed, 0), free+longestUnused.Seconds()*rate), now
	return time.Duration(max(a.owed-free, 0) / rate * float64(time.Second))
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.paused.Read(p)
	c.addUnused(float64(n))
	return n, err
}

// Use says that a request uses bytes that came on the connection: see Options.Unused.
func (c *conn) Use(bytes int) { c.addUnused(-float64(bytes)) }

func (c *conn) addUnused(bytes float64) {
	var wait time.Duration
	for _, a := range *c.unused.Load() {
		wait = max(wait, a.add(bytes))
	}
	if wait > 0 && bytes > 0 {
		c.Pause(wait)
	}
}

// countUnusedFor has the connection count for a server, or for its address.
func (c *conn) countUnusedFor(server spec.ServerName) {
	list := c.ofAddress
	if server != "" {
		list = c.listener.unused.ofServer(server)
	}
	c.unused.Store(&list)
}
