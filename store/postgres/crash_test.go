//go:build unix

package postgres

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/pgtest"
	"github.com/matrixrelay/relay/internal/seeds"
)

// TestKilledServer kills the server with SIGKILL again and again, and starts it
// again, while two stores are used. RELAY_CRASH_ROUNDS is how often (default
// 3), RELAY_CRASH_SEED makes the same choices again, though not the same race.
func TestKilledServer(t *testing.T) {
	s := seeds.Of(t, crashSeed)
	random := rand.New(rand.NewPCG(s, 1000))
	server := pgtest.New(t)
	options := Options{ConnString: server.Database(t), SweepInterval: 50 * time.Millisecond}
	first, second := open(t, options), open(t, options)
	defer func() { require.NoError(t, first.Close()) }()
	defer func() { require.NoError(t, second.Close()) }()
	l := newLoad(t, first, second)
	l.start(s)
	for range seeds.Count(t, crashRounds, 3) {
		l.progress(loadWriters)
		time.Sleep(time.Duration(50+random.IntN(700)) * time.Millisecond)
		server.Kill()
		time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
		server.Start(t)
	}
	l.progress(10 * loadWriters)
	l.finish()
}

// TestTerminatedConnections has the server end connections at any moment.
func TestTerminatedConnections(t *testing.T) {
	s := seeds.Of(t, crashSeed)
	options := fresh(t)
	options.ConnString = pgtest.Shared(t).Database(t)
	first, second := open(t, options), open(t, options)
	defer func() { require.NoError(t, first.Close()) }()
	defer func() { require.NoError(t, second.Close()) }()
	l := newLoad(t, first, second)
	l.start(s)
	l.progress(loadWriters)
	for least, ended := seeds.Count(t, crashRounds, 30), int64(0); least > 0 || ended < 10; least-- {
		time.Sleep(20 * time.Millisecond)
		ended += execute(t, options, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.5`)
	}
	l.progress(10 * loadWriters)
	l.finish()
}

// TestCutConnections cuts connections at the worst moments: when the answer to
// a commit is on its way, when the commit itself is, and anywhere.
func TestCutConnections(t *testing.T) {
	s := seeds.Of(t, crashSeed)
	cut := newCutter(t, s, pgtest.Shared(t))
	options := fresh(t)
	options.ConnString = cut.connString(t, options.ConnString)
	first, second := open(t, options), open(t, options)
	defer func() { require.NoError(t, first.Close()) }()
	defer func() { require.NoError(t, second.Close()) }()
	l := newLoad(t, first, second)
	cut.enable(true)
	l.start(s)
	time.Sleep(time.Duration(seeds.Count(t, crashRounds, 3)) * time.Second)
	require.Eventually(t, cut.everywhere, patience, 10*time.Millisecond, "%v", cut)
	cut.enable(false)
	l.progress(10 * loadWriters)
	l.finish()
	t.Log(cut)
}

// A cutter is a proxy that cuts connections.
type cutter struct {
	socket   string
	listener net.Listener

	mu      sync.Mutex
	random  *rand.Rand
	enabled bool
	count   map[cutPoint]int
}

type cutPoint string

const (
	atCommit cutPoint = "commit"
	atAnswer cutPoint = "answer to a commit"
	anywhere cutPoint = "anywhere"
)

func newCutter(t *testing.T, seed uint64, server *pgtest.Server) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	c := &cutter{socket: server.Socket(), listener: l, random: rand.New(rand.NewPCG(seed, 2000)), count: make(map[cutPoint]int)}
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

// everywhere reports whether there was a cut of each kind.
func (c *cutter) everywhere() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count[atCommit] > 0 && c.count[atAnswer] > 0 && c.count[anywhere] > 0
}

func (c *cutter) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprint("cut at ", c.count)
}

func (c *cutter) serve(client net.Conn) {
	server, err := net.Dial("unix", c.socket)
	if err != nil {
		_ = client.Close() // as a server that is gone would
		return
	}
	var both sync.WaitGroup
	pass := func(to, from net.Conn, at cutPoint, isCommit func([]byte) bool) {
		c.copy(to, from, at, isCommit)
		_, _ = client.Close(), server.Close() // the other direction may have closed them
	}
	both.Go(func() { pass(server, client, atCommit, commitsOf()) })
	both.Go(func() { pass(client, server, atAnswer, isCommitted) })
	both.Wait()
}

// copy passes on the bytes that come, until it is time to cut.
func (c *cutter) copy(to io.Writer, from io.Reader, at cutPoint, isCommit func([]byte) bool) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil || c.cuts(at, isCommit(buffer[:n])) {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (c *cutter) cuts(at cutPoint, isCommit bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	odds := 15
	if !isCommit {
		at, odds = anywhere, 200
	}
	if !c.enabled || c.random.IntN(odds) > 0 {
		return false
	}
	c.count[at]++
	return true
}

var preparedCommit = regexp.MustCompile(`(stmtcache_\w+)\x00COMMIT\x00`)

// commitsOf returns a function that knows the commits of a client: pgx prepares
// the statement under a name first, and executes it under that.
func commitsOf() func([]byte) bool {
	name := []byte("not prepared")
	return func(data []byte) bool {
		if found := preparedCommit.FindSubmatch(data); found != nil {
			name = slices.Concat([]byte{0}, found[1], []byte{0})
		}
		return bytes.Contains(data, name)
	}
}

func isCommitted(data []byte) bool { return bytes.Contains(data, []byte("COMMIT\x00")) }
