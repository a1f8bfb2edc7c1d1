package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/sqlite"
)

// filledDatabase has mail, and a backup that lacks some of it.
func filledDatabase(t *testing.T) (db, backup string, all []store.Mail) {
	t.Helper()
	db, all = database(t), mailOf(t)
	backup = filepath.Join(t.TempDir(), "backup.db")
	s, err := sqlite.Open(db, sqlite.Options{})
	require.NoError(t, err)
	for i, m := range all {
		if i == len(all)/2 {
			require.NoError(t, s.Backup(t.Context(), backup))
		}
		_, err := s.Put(context.Background(), m, store.Limits{})
		require.NoError(t, err)
	}
	require.NoError(t, s.Close())
	return db, backup, all
}

// A backup comes back to an empty place, and with --replace in the place of a database.
func TestRestoreCommand(t *testing.T) {
	db, backup, all := filledDatabase(t)
	half := len(all) / 2
	status, _, stderr := runTool(t, "restore", backup, "--db", db)
	require.Equal(t, exitFailed, status)
	require.Contains(t, stderr, "--replace replaces it")
	requireEntries(t, db, len(all))
	require.Contains(t, tool(t, "restore", backup, "--db", db, "--replace"), fmt.Sprintf("holds %d transactions", half))
	requireEntries(t, db, half)
	requireEntries(t, db+"-before", len(all))
	elsewhere := database(t)
	require.EqualValues(t, half, toolJSON[map[string]any](t, "restore", backup, "--db", elsewhere)["entries"])

	for _, of := range []struct {
		want string
		args []string
		code int
	}{
		{"no such file", []string{"restore", "nosuch.db", "--db", db, "--replace"}, exitFailed},
		{"tools of their own", []string{"restore", backup, "--db", "postgres://x"}, exitUsage},
		{"tools of their own", []string{"repair", "--db", "nats://x"}, exitUsage},
		{"the FILE of the backup", []string{"restore"}, exitUsage},
		{"missing or empty", []string{"repair", "--db", filepath.Join(t.TempDir(), "nosuch.db")}, exitFailed},
	} {
		status, _, stderr := runTool(t, of.args...)
		require.Equal(t, of.code, status, "%s: %s", of.args, stderr)
		require.Contains(t, stderr, of.want)
	}
	p := start(t, "--db", db)
	status, _, stderr = runTool(t, "restore", backup, "--db", db, "--replace")
	require.Equal(t, exitFailed, status)
	require.Contains(t, stderr, "in use")
	p.stop()
}

func requireEntries(t *testing.T, db string, want int) {
	t.Helper()
	s, err := sqlite.Open(db, sqlite.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	held, err := holds(t.Context(), s)
	require.NoError(t, err)
	require.EqualValues(t, want, held.Entries)
}

// A file whose end is missing is saved as far as it goes, and the rest is told of.
func TestRepairCommand(t *testing.T) {
	db, _, all := filledDatabase(t)
	require.Contains(t, tool(t, "repair", "--db", db), fmt.Sprintf("holds %d transactions", len(all)))
	info, err := os.Stat(db)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(db, info.Size()/2))
	status, stdout, stderr := runTool(t, "repair", "--db", db)
	require.Equal(t, exitProblem, status, stderr)
	require.Regexp(t, `is repaired and holds [1-9]\d* transactions`, stdout)
	require.Contains(t, stderr, "the end of the file, which is missing; the damaged file is "+db+"-damaged")
	require.FileExists(t, db+"-damaged")
	tool(t, "verify", "--offline", "--db", db)
}
