package main

import (
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// startPostgres starts a server of PostgreSQL, which listens at a socket in a folder of
// its own, and returns how to connect to it. The helpers of the other modules can't be
// imported by one that has a path below Dendrite's.
func startPostgres(t *testing.T) (connString string) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // Debian doesn't put it in the path
	require.NoError(t, err)
	if len(found) == 0 && os.Getenv("RELAY_TEST_EVERYTHING") == "" {
		t.Skip("needs the program postgres")
	}
	require.NotEmpty(t, found)
	bin := filepath.Dir(found[len(found)-1])
	dir, err := os.MkdirTemp("", "relay-pg")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	credential := otherUser(t, dir)
	program := func(name string, args ...string) *exec.Cmd {
		c := exec.Command(filepath.Join(bin, name), args...)
		c.Dir, c.SysProcAttr = "/", &syscall.SysProcAttr{Credential: credential}
		return c
	}
	data := filepath.Join(dir, "data")
	out, err := program("initdb", "-D", data, "-U", "relay", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync").CombinedOutput()
	require.NoError(t, err, "%s", out)
	server := run(t, program("postgres", "-D", data, "-k", dir, "-h", ""))
	await(t, "postgres answers", func() bool {
		select {
		case <-server.ended:
			t.Fatal(server.logged())
		default:
		}
		return program("pg_isready", "-h", dir, "-d", "postgres").Run() == nil
	})
	t.Cleanup(func() { _ = server.command.Process.Signal(syscall.SIGQUIT); <-server.ended })
	return "host=" + dir + " user=relay dbname=postgres sslmode=disable"
}

// otherUser gives the folder to a user for the programs to run as: they refuse to be root.
func otherUser(t *testing.T, dir string) *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	found, err := osuser.Lookup("postgres")
	require.NoError(t, err)
	uid, err := strconv.ParseUint(found.Uid, 10, 32)
	require.NoError(t, err)
	gid, err := strconv.ParseUint(found.Gid, 10, 32)
	require.NoError(t, err)
	require.NoError(t, os.Chown(dir, int(uid), int(gid)))
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}
