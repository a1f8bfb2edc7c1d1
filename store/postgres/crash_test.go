//go:build unix

package postgres

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/pgtest"
)

// TestKilledServer kills the server with SIGKILL again and again, and starts it
// again, while two stores are used. RELAY_CRASH_ROUNDS is how often (default
// 3), RELAY_CRASH_SEED makes the same choices again, though not the same race.
func TestKilledServer(t *testing.T) {
	s := seed(t)
	random := rand.New(rand.NewPCG(s, 1000))
	server := pgtest.New(t)
	options := Options{ConnString: server.Database(t), SweepInterval: 50 * time.Millisecond}
	first, second := open(t, options), open(t, options)
	defer func() { require.NoError(t, first.Close()) }()
	defer func() { require.NoError(t, second.Close()) }()
	l := newLoad(t, first, second)
	l.start(s)
	for range rounds(t, 3) {
		time.Sleep(time.Duration(50+random.IntN(700)) * time.Millisecond)
		server.Kill()
		time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
		server.Start(t)
	}
	time.Sleep(200 * time.Millisecond)
	l.finish()
}

// TestTerminatedConnections has the server end connections at any moment.
func TestTerminatedConnections(t *testing.T) {
	s := seed(t)
	options := fresh(t)
	options.ConnString = pgtest.Shared(t).Database(t)
	first, second := open(t, options), open(t, options)
	defer func() { require.NoError(t, first.Close()) }()
	defer func() { require.NoError(t, second.Close()) }()
	l := newLoad(t, first, second)
	l.start(s)
	for range rounds(t, 30) {
		time.Sleep(20 * time.Millisecond)
		execute(t, options, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.5`)
	}
	l.finish()
}

// TestCutConnections cuts connections at the worst moments: when the answer to
// a commit is on its way, when the commit itself is, and anywhere.
func TestCutConnections(t *testing.T) {
	s := seed(t)
	cut := newCutter(t, s, pgtest.Shared(t))
	options := fresh(t)
	options.ConnString = cut.connString(t, options.ConnString)
	first, second := open(t, options), open(t, options)
	defer func() { require.NoError(t, first.Close()) }()
	defer func() { require.NoError(t, second.Close()) }()
	l := newLoad(t, first, second)
	cut.enable(true)
	l.start(s)
	time.Sleep(time.Duration(rounds(t, 3)) * time.Second)
	cut.enable(false)
	l.finish()
	t.Log("cut:", cut.count)
	for _, where := range []string{"answer to a commit", "commit", "anywhere"} {
		require.Positive(t, cut.count[where], where)
	}
}

// A cutter is a proxy that cuts connections.
type cutter struct {
	socket   string
	listener net.Listener

	mu      sync.Mutex
	random  *rand.Rand
	enabled bool
	count   map[string]int
}

func newCutter(t *testing.T, seed uint64, server *pgtest.Server) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	c := &cutter{socket: server.Socket(), listener: l, random: rand.New(rand.NewPCG(seed, 2000)), count: make(map[string]int)}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil { // the test has ended
				return
			}
			go c.serve(conn)
		}
	}()
	return c
}

// connString leads through the proxy.
func (c *cutter) connString(t *testing.T, direct string) string {
	u, err := url.Parse(direct)
	require.NoError(t, err)
	u.Host, u.RawQuery = c.listener.Addr().String(), "sslmode=disable"
	return u.String()
}

func (c *cutter) enable(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enabled = on
}

func (c *cutter) serve(client net.Conn) {
	server, err := net.Dial("unix", c.socket)
	if err != nil {
		_ = client.Close() // as a server that is gone would
		return
	}
	var both sync.WaitGroup
	pass := func(to, from net.Conn, what string, mark []byte) {
		c.copy(to, from, what, mark)
		_, _ = client.Close(), server.Close() // the other direction may have closed them
	}
	both.Go(func() { pass(server, client, "commit", []byte("COMMIT\x00")) })
	both.Go(func() { pass(client, server, "answer to a commit", []byte("COMMIT\x00")) })
	both.Wait()
}

// copy passes on what comes, until it is time to cut.
func (c *cutter) copy(to io.Writer, from io.Reader, what string, mark []byte) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil || c.cuts(buffer[:n], what, mark) {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (c *cutter) cuts(data []byte, what string, mark []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.enabled:
		return false
	case bytes.Contains(data, mark) && c.random.IntN(15) == 0:
		c.count[what]++
		return true
	case c.random.IntN(200) == 0 && !strings.Contains(string(data), string(mark)):
		c.count["anywhere"]++
		return true
	}
	return false
}
