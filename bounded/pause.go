package bounded

import (
	"net"
	"sync"
	"time"
)

// A paused connection's bytes aren't handed on before its pause is over. So requests on it
// cost nothing for that long, nor do those that HTTP/2 brings side by side.
type paused struct {
	net.Conn

	once   sync.Once
	closed chan struct{}

	mu    sync.Mutex
	until time.Time
}

func newPaused(c net.Conn) *paused { return &paused{Conn: c, closed: make(chan struct{})} }

// Pause stops the reading of the connection for that long from now on, unless it is paused
// for longer already.
func (c *paused) Pause(d time.Duration) {
	until := time.Now().Add(d)
	c.mu.Lock()
	defer c.mu.Unlock()
	if until.After(c.until) {
		c.until = until
	}
}

func (c *paused) rest() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until.IsZero() {
		return 0 // as most are
	}
	return time.Until(c.until)
}

// Read implements net.Conn. It holds back the bytes that it has read: a pause may begin while a
// server is in Read already, for the next request.
func (c *paused) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for rest := c.rest(); err == nil && rest > 0; rest = c.rest() {
		timer := time.NewTimer(rest)
		select {
		case <-timer.C:
		case <-c.closed:
			timer.Stop()
			return 0, net.ErrClosed
		}
	}
	return n, err
}

// Close implements net.Conn.
func (c *paused) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
