//go:build unix

package jetstream

import (
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A gate is a way to an address. While it is shut nothing passes and nobody is told,
// as if the network were cut; bytes that were on their way arrive when it's open again.
type gate struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu    sync.Mutex
	open  chan struct{} // closed while the gate is open
	conns map[net.Conn]struct{}
	ended bool
}

// newGate makes a gate, which is open, to a port of this machine.
func newGate(t *testing.T, port int) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := &gate{
		listener: l, target: fmt.Sprint("127.0.0.1:", port),
		open: make(chan struct{}), conns: make(map[net.Conn]struct{}),
	}
	close(g.open)
	g.running.Go(g.accept)
	t.Cleanup(g.close)
	return g
}

func (g *gate) port() int { return g.listener.Addr().(*net.TCPAddr).Port }

func (g *gate) accept() {
	for {
		conn, err := g.listener.Accept()
		if err != nil {
			return
		}
		g.running.Go(func() { g.connect(conn) })
	}
}

func (g *gate) connect(from net.Conn) {
	defer g.keep(from)()
	g.pass()
	to, err := net.Dial("tcp", g.target)
	if err != nil {
		return
	}
	defer g.keep(to)()
	var copying sync.WaitGroup
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		copying.Go(func() {
			g.copy(way[0], way[1])
			_, _ = from.Close(), to.Close()
		})
	}
	copying.Wait()
}

func (g *gate) copy(from, to net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		g.pass()
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
		if err != nil {
			return
		}
	}
}

// pass returns when the gate is open.
func (g *gate) pass() {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	<-open
}

// keep makes the end of the gate that of the connection; done gives it back.
func (g *gate) keep(conn net.Conn) (done func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns[conn] = struct{}{}
	if g.ended {
		_ = conn.Close()
	}
	return func() {
		_ = conn.Close()
		g.mu.Lock()
		delete(g.conns, conn)
		g.mu.Unlock()
	}
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = make(chan struct{})
}

func (g *gate) reopen() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

func (g *gate) close() {
	_ = g.listener.Close()
	g.reopen()
	g.mu.Lock()
	g.ended = true
	for conn := range g.conns {
		_ = conn.Close()
	}
	g.mu.Unlock()
	g.running.Wait()
}
