// Package stripes has a bounded number of locks for any number of servers.
package stripes

import (
	"context"
	"hash/maphash"
	"sync"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/turns"
)

var seed = maphash.MakeSeed()

// Locks are locks by server, of which several servers may share one. The zero value is
// ready for use. A goroutine that holds one must not lock another.
type Locks struct {
	once  sync.Once
	turns [64]turns.Turn
}

// Lock locks that of a server, however long that takes.
func (l *Locks) Lock(server spec.ServerName) (unlock func()) {
	one := l.of(server)
	one <- struct{}{}
	return one.Give
}

// Take locks that of a server. The error is that of the context.
func (l *Locks) Take(ctx context.Context, server spec.ServerName) (unlock func(), err error) {
	one := l.of(server)
	return one.Give, one.Take(ctx)
}

func (l *Locks) of(server spec.ServerName) turns.Turn {
	l.once.Do(func() {
		for i := range l.turns {
			l.turns[i] = turns.New()
		}
	})
	return l.turns[maphash.String(seed, string(server))%uint64(len(l.turns))]
}
