// Package stripes has a bounded number of locks for any number of servers.
package stripes

import (
	"hash/maphash"
	"sync"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

var seed = maphash.MakeSeed()

// Locks are locks by server, of which several servers may share one. The zero value is
// ready for use.
type Locks [64]sync.Mutex

// Lock locks that of a server. A goroutine that holds one must not lock another.
func (l *Locks) Lock(server spec.ServerName) (unlock func()) {
	one := &l[maphash.String(seed, string(server))%uint64(len(l))]
	one.Lock()
	return one.Unlock
}
