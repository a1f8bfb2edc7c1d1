//go:build unix

// Package pgtest runs PostgreSQL and PgBouncer for tests, from the programs
// that the system has. Tests are skipped, or fail, where there are none: see
// package need.
package pgtest

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/need"
)

// superuser is the superuser of the servers. It needs no password.
const superuser = "relay"

// A Server is a PostgreSQL server with a directory of its own, which listens at
// a socket in it.
type Server struct {
	dir, bin  string
	databases atomic.Int64

	mu      sync.Mutex
	process *process // nil while it isn't running
}

var shared struct {
	once   sync.Once
	server *Server
}

// Shared returns the one server of the test program, for which TestMain must
// call StopShared.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	bin := programs(tb)
	shared.once.Do(func() {
		s := &Server{bin: bin}
		s.make(tb)
		s.Start(tb)
		shared.server = s
	})
	if shared.server == nil {
		tb.Fatal("the server didn't start for an earlier test")
	}
	return shared.server
}

// StopShared ends the server of Shared, if there is one.
func StopShared() {
	if s := shared.server; s != nil {
		s.remove()
	}
}

// New returns a running server that ends with the test.
func New(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{bin: programs(tb)}
	s.make(tb)
	tb.Cleanup(s.remove)
	s.Start(tb)
	return s
}

// Programs is the environment variable that says in which directory the programs
// of PostgreSQL are, for another version than the newest that is installed.
const Programs = "RELAY_POSTGRES"

// programs returns where PostgreSQL is.
func programs(tb testing.TB) string {
	tb.Helper()
	if dir := os.Getenv(Programs); dir != "" {
		return dir
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // Debian doesn't put it in the path
	require.NoError(tb, err)
	if len(found) > 0 {
		slices.SortFunc(found, func(a, b string) int { return len(a) - len(b) + strings.Compare(a, b) })
		return filepath.Dir(found[len(found)-1])
	}
	return filepath.Dir(need.Program(tb, "postgres"))
}

func (s *Server) make(tb testing.TB) {
	tb.Helper()
	s.dir = privateDir(tb)
	out, err := command(tb, filepath.Join(s.bin, "initdb"), "-D", s.data(), "-U", superuser,
		"--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync").CombinedOutput()
	require.NoError(tb, err, "%s", out)
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// Start starts the server and waits until it answers. More settings may be
// given as name=value.
func (s *Server) Start(tb testing.TB, settings ...string) {
	tb.Helper()
	args := []string{"-D", s.data(), "-k", s.dir, "-h", "", "-c", "max_connections=200"}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	p := launch(tb, s.dir, filepath.Join(s.bin, "postgres"), args...)
	s.mu.Lock()
	s.process = p
	s.mu.Unlock()
	await(tb, p, func() error { return s.tool("pg_isready", "-d", "postgres") })
}

// tool runs one of the server's client programs.
func (s *Server) tool(name string, args ...string) error {
	out, err := exec.Command(filepath.Join(s.bin, name), append([]string{"-h", s.dir, "-U", superuser}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

// Socket is the path of the server's socket.
func (s *Server) Socket() string { return filepath.Join(s.dir, ".s.PGSQL.5432") }

// Bin is the directory of the server's programs.
func (s *Server) Bin() string { return s.bin }

// Dir is the directory of the server; the data is below it.
func (s *Server) Dir() string { return s.dir }

// Database makes a new database and returns how to connect to it.
func (s *Server) Database(tb testing.TB) (connString string) {
	tb.Helper()
	name := fmt.Sprint("test", s.databases.Add(1))
	require.NoError(tb, s.tool("createdb", "-T", "template0", name))
	return URL(s.dir, name)
}

// URL says how to connect to a database by the socket in a directory.
func URL(dir, database string) string {
	u := url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/" + database, RawQuery: url.Values{"host": {dir}}.Encode()}
	return u.String()
}

// Kill ends the server and all its processes with SIGKILL.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		s.process.kill()
		s.process = nil
	}
}

// Stop ends the server in the orderly way.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.NoError(tb, s.process.interrupt())
	s.process = nil
}

// remove ends the server so that nothing of it is left, as there would be of its
// shared memory after a Kill.
func (s *Server) remove() {
	s.mu.Lock()
	if s.process != nil {
		s.process.quit()
		s.process = nil
	}
	s.mu.Unlock()
	_ = os.RemoveAll(s.dir) // below the system's directory for such things
}

// await waits until try succeeds.
func await(tb testing.TB, p *process, try func() error) {
	tb.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if p.hasEnded() || time.Now().After(deadline) {
			tb.Fatalf("%v\n%s", err, p.logged())
		}
	}
}
