package bounded

import (
	"bytes"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// A paused connection's bytes aren't handed on before its pause is over. So requests on it
// cost nothing for that long, nor do those that HTTP/2 brings side by side.
type paused struct {
	net.Conn

	once   sync.Once
	closed chan struct{}

	reading sync.Mutex
	held    []byte // they were read, and are handed on after the pause

	mu    sync.Mutex
	until time.Time
	isCut bool          // its reading is to fail
	cut   chan struct{} // has room for one, which says so
}

func newPaused(c net.Conn) *paused {
	return &paused{Conn: c, closed: make(chan struct{}), cut: make(chan struct{}, 1)}
}

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

// rest is how long the pause still is, and whether the reading is to fail meanwhile.
func (c *paused) rest() (rest time.Duration, isCut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until.IsZero() {
		return 0, false // as most are
	}
	return time.Until(c.until), c.isCut
}

// Read implements net.Conn. It holds back the bytes that it has read: a pause may begin while a
// server is in Read already, for the next request.
func (c *paused) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if len(c.held) == 0 {
		n, err := c.Conn.Read(p)
		if rest, _ := c.rest(); rest <= 0 || err != nil {
			return n, err
		}
		c.held = bytes.Clone(p[:n])
	}
	if err := c.wait(); err != nil {
		return 0, err
	}
	n := copy(p, c.held)
	c.held = c.held[n:]
	return n, nil
}

// wait waits until the pause is over.
func (c *paused) wait() error {
	for {
		rest, isCut := c.rest()
		switch {
		case rest <= 0:
			return nil
		case isCut:
			return os.ErrDeadlineExceeded
		}
		timer := time.NewTimer(rest)
		select {
		case <-timer.C:
		case <-c.cut:
		case <-c.closed:
			timer.Stop()
			return net.ErrClosed
		}
		timer.Stop()
	}
}

// SetReadDeadline implements net.Conn. One that has passed ends a Read at once, also in a
// pause: by it a server cuts off a body. Later ones don't, so that a pause ends no connection.
func (c *paused) SetReadDeadline(at time.Time) error {
	c.mu.Lock()
	c.isCut = !at.IsZero() && !at.After(time.Now())
	if c.isCut {
		select {
		case c.cut <- struct{}{}:
		default:
		}
	}
	c.mu.Unlock()
	return c.Conn.SetReadDeadline(at)
}

// SetDeadline implements net.Conn.
func (c *paused) SetDeadline(at time.Time) error {
	return errors.Join(c.SetReadDeadline(at), c.SetWriteDeadline(at))
}

// Close implements net.Conn.
func (c *paused) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
