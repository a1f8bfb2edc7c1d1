package main

import (
	"io"
	"net/http"
	"time"
)

// A connection must move paceBytes (or all that is left) in paceTime, so that
// 10 MiB come through a slow phone's link, however long that takes, but a
// connection that dribbles is soon given up. It's about 2 KiB a second.
const (
	paceBytes = 64 << 10
	paceTime  = 30 * time.Second
)

// paced gives bodies and answers the time they need as long as they move.
type paced struct {
	next  http.Handler
	bytes int
	time  time.Duration
}

func (p paced) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &pacedConn{http.NewResponseController(w), p.bytes, p.time}
	// Each request sets both anew, since a connection keeps the deadlines of the last
	// one.
	c.putOffWrite()
	if r.ContentLength != 0 {
		c.putOffRead()
		withBody := *r
		withBody.Body = &pacedBody{ReadCloser: r.Body, conn: c}
		r = &withBody
	}
	p.next.ServeHTTP(&pacedWriter{w, c}, r)
	c.putOffWrite() // net/http sends the rest of the answer now
}

// A pacedConn is the connection of one request. One that can't have deadlines, as
// in tests, has none.
type pacedConn struct {
	controller *http.ResponseController
	bytes      int
	time       time.Duration
}

func (c *pacedConn) putOffRead()  { _ = c.controller.SetReadDeadline(time.Now().Add(c.time)) }
func (c *pacedConn) putOffWrite() { _ = c.controller.SetWriteDeadline(time.Now().Add(c.time)) }
func (c *pacedConn) doneReading() { _ = c.controller.SetReadDeadline(time.Time{}) }

// A pacedBody puts off the end of a connection while its body comes.
type pacedBody struct {
	io.ReadCloser
	conn  *pacedConn
	moved int
}

func (b *pacedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.moved += n
	switch {
	case err == io.EOF:
		// From here on net/http reads only to notice that the other side has
		// gone, and would take the deadline for that.
		b.conn.doneReading()
	case b.moved >= b.conn.bytes:
		b.moved = 0
		b.conn.putOffRead()
	}
	return n, err
}

// A pacedWriter puts off the end of a connection while its answer goes.
type pacedWriter struct {
	http.ResponseWriter
	conn *pacedConn
}

// Unwrap is for http.ResponseController.
func (w *pacedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *pacedWriter) Write(p []byte) (written int, err error) {
	for {
		w.conn.putOffWrite()
		n, err := w.ResponseWriter.Write(p[:min(len(p), w.conn.bytes)])
		written += n
		p = p[n:]
		if err != nil || len(p) == 0 {
			return written, err
		}
	}
}
