//go:build unix

package pgtest

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// replicaName is the name that a replica gives when it connects.
const replicaName = "replica"

// Synchronous is the setting with which a commit waits for the replica.
const Synchronous = "synchronous_standby_names=" + replicaName

// Replica starts another server that repeats this one, until the test
// ends. This one is started again for it, with the settings.
func (s *Server) Replica(tb testing.TB, settings ...string) *Server {
	tb.Helper()
	r := &Server{bin: s.bin, dir: privateDir(tb)}
	tb.Cleanup(r.remove)
	s.Stop(tb)
	out, err := exec.Command("cp", "-a", s.data(), r.data()).CombinedOutput()
	require.NoError(tb, err, "%s", out)
	follow := fmt.Sprintf("primary_conninfo = 'host=%s user=%s application_name=%s'\n", s.dir, superuser, replicaName)
	config, err := os.OpenFile(filepath.Join(r.data(), "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(tb, err)
	_, err = config.WriteString(follow)
	require.NoError(tb, err)
	require.NoError(tb, config.Close())
	require.NoError(tb, os.WriteFile(filepath.Join(r.data(), "standby.signal"), nil, 0o644))
	s.Start(tb, settings...)
	r.Start(tb)
	return r
}

// Promote makes a replica a server that others can write to.
func (s *Server) Promote(tb testing.TB) {
	tb.Helper()
	out, err := command(tb, filepath.Join(s.bin, "pg_ctl"), "promote", "-w", "-D", s.data()).CombinedOutput()
	require.NoError(tb, err, "%s", out)
}

// Either says how to connect to the database of this connection string, which
// Database has returned, at whichever of the servers can be written to.
func Either(tb testing.TB, connString string, servers ...*Server) string {
	tb.Helper()
	dirs, ports := make([]string, len(servers)), make([]string, len(servers))
	for i, s := range servers {
		dirs[i], ports[i] = s.dir, "5432"
	}
	return withQuery(tb, connString, url.Values{
		"host": {strings.Join(dirs, ",")}, "port": {strings.Join(ports, ",")}, "target_session_attrs": {"read-write"},
	})
}

// At says how to connect to the same database at this server.
func (s *Server) At(tb testing.TB, connString string) string {
	tb.Helper()
	return withQuery(tb, connString, url.Values{"host": {s.dir}})
}

func withQuery(tb testing.TB, connString string, query url.Values) string {
	tb.Helper()
	u, err := url.Parse(connString)
	require.NoError(tb, err)
	u.RawQuery = query.Encode()
	return u.String()
}
