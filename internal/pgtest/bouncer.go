//go:build unix

package pgtest

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/need"
)

// Bouncer runs PgBouncer in front of the server until the test ends. The function that
// it returns makes a connection string lead through it. In transaction mode it
// gives a client another of very few connections for each transaction.
func (s *Server) Bouncer(tb testing.TB, mode string) (through func(connString string) string) {
	tb.Helper()
	program := need.Program(tb, "pgbouncer")
	dir := privateDir(tb)
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	users, config := filepath.Join(dir, "users"), filepath.Join(dir, "config")
	require.NoError(tb, os.WriteFile(users, fmt.Appendf(nil, "%q \"\"\n", superuser), 0o644))
	require.NoError(tb, os.WriteFile(config, fmt.Appendf(nil, `[databases]
* = host=%s
[pgbouncer]
listen_addr =
listen_port = 5432
unix_socket_dir = %s
auth_type = trust
auth_file = %s
pool_mode = %s
default_pool_size = 4
max_client_conn = 200
`, s.dir, dir, users, mode), 0o644))
	p := launch(tb, dir, program, config)
	tb.Cleanup(p.kill)
	await(tb, p, func() error {
		conn, err := net.Dial("unix", filepath.Join(dir, ".s.PGSQL.5432")) // the file is there before it listens
		if err != nil {
			return err
		}
		return conn.Close()
	})
	return func(connString string) string {
		return strings.Replace(connString, url.QueryEscape(s.dir), url.QueryEscape(dir), 1)
	}
}
