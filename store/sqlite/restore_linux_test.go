package sqlite

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/need"
)

// A database that root restores or repairs can be opened by the relay, which isn't root.
func TestRootLeavesTheOwner(t *testing.T) {
	need.Root(t)
	const owner = 61234
	path, backup, _, _ := backedUp(t)
	requireOwner := func() {
		t.Helper()
		for _, name := range []string{path, path + "-lock"} {
			info, err := os.Stat(name)
			require.NoError(t, err)
			require.EqualValues(t, owner, info.Sys().(*syscall.Stat_t).Uid, name)
		}
	}
	for _, name := range []string{path, path + "-lock"} {
		require.NoError(t, os.Chown(name, owner, owner))
	}
	require.NoError(t, Restore(t.Context(), backup, path, RestoreOptions{Replace: true}))
	requireOwner()
	_, err := Repair(path)
	require.NoError(t, err)
	requireOwner()

	path = t.TempDir() + "/relay.db" // where there is none, the folder says whose it is
	require.NoError(t, os.Chown(filepath.Dir(path), owner, owner))
	require.NoError(t, Restore(t.Context(), backup, path, RestoreOptions{}))
	requireOwner()
}

// A database that root opens or makes in the relay's folder can be opened by the relay.
func TestRootOpensForTheOwner(t *testing.T) {
	need.Root(t)
	const owner = 61234
	folder := t.TempDir()
	require.NoError(t, os.Chown(folder, owner, owner))
	for i := range 2 { // it is made, and then opened
		s, err := Open(filepath.Join(folder, "relay.db"), Options{})
		require.NoError(t, err)
		put(t, s, bigMail(i, 100))
		require.Contains(t, namesIn(t, folder), "relay.db-wal")
		for _, name := range namesIn(t, folder) {
			info, err := os.Stat(filepath.Join(folder, name))
			require.NoError(t, err)
			require.EqualValues(t, owner, info.Sys().(*syscall.Stat_t).Uid, name)
		}
		require.NoError(t, s.Close())
	}
}
