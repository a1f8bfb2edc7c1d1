package relay

import (
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/table"
)

const (
	// numberLasts is for how long a number in the notes is remembered, in which another
	// process on the same store may have changed it. maxNumbers bounds them.
	numberLasts = time.Minute
	maxNumbers  = 10_000
)

// numbers are those of servers that were read or written lately.
type numbers struct {
	mu    sync.Mutex
	known *table.Table[spec.ServerName, knownNumber]
}

type knownNumber struct {
	number int64
	until  time.Time
}

func newNumbers() *numbers {
	return &numbers{known: table.New[spec.ServerName, knownNumber](maxNumbers)}
}

func (n *numbers) get(server spec.ServerName) (number int64, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	known, ok := n.known.Get(server)
	return known.number, ok && time.Now().Before(known.until)
}

func (n *numbers) set(server spec.ServerName, number int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known.Set(server, knownNumber{number, time.Now().Add(numberLasts)})
}
