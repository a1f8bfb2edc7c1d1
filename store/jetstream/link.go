package jetstream

import (
	"context"
	"errors"
	"sync"

	"github.com/nats-io/nats.go"
)

var errLinkLost = errors.New("the connection was lost")

// A link tells who waits for an answer that the connection is lost, and the
// answer with it. The client itself lets them wait until their time is over.
type link struct {
	conn    *nats.Conn
	changes chan nats.Status
	ended   chan struct{} // closed when the goroutine is gone

	mu   sync.Mutex
	up   context.Context // ends when the connection is lost
	lose context.CancelCauseFunc
}

func newLink(conn *nats.Conn) *link {
	l := &link{
		conn: conn, ended: make(chan struct{}),
		changes: conn.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING),
	}
	l.up, l.lose = context.WithCancelCause(context.Background())
	go l.watch()
	return l
}

func (l *link) watch() {
	defer close(l.ended)
	for range l.changes {
		l.mu.Lock()
		l.lose(errLinkLost)
		l.up, l.lose = context.WithCancelCause(context.Background())
		l.mu.Unlock()
	}
}

// whileUp is ctx, but ends with the connection, too.
func (l *link) whileUp(ctx context.Context) (context.Context, context.CancelFunc) {
	l.mu.Lock()
	up := l.up
	l.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	unregister := context.AfterFunc(up, func() { cancel(errLinkLost) })
	return ctx, func() {
		unregister()
		cancel(nil)
	}
}

func (l *link) stop() {
	l.conn.RemoveStatusListener(l.changes)
	<-l.ended
	l.lose(nil)
}
