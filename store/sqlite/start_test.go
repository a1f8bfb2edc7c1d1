package sqlite

import (
	"database/sql"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// copyFile copies a file as it is on the disk.
func copyFile(t testing.TB, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, content, 0o600))
}

// A crashed copies the files of a store that is in use, as a crash leaves them.
func crashed(t testing.TB, path string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "relay.db")
	for _, suffix := range []string{"", "-wal", "-shm", "-lock"} {
		copyFile(t, path+suffix, to+suffix)
	}
	return to
}

// A store never begins anew where there was one.
func TestNeverAnew(t *testing.T) {
	running := filepath.Join(t.TempDir(), "relay.db")
	s := open(t, running)
	put(t, s, mail(1))
	empty := func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 0)) }
	remove := func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) }
	for name, test := range map[string]struct {
		harm func(t *testing.T, path string)
		says string
	}{
		"database missing beside a log": {func(t *testing.T, path string) { remove(t, path); remove(t, path+"-lock") }, "missing or empty, but its log"},
		"database empty beside a log":   {func(t *testing.T, path string) { empty(t, path); remove(t, path+"-lock") }, "missing or empty, but its log"},
		"database and log missing":      {func(t *testing.T, path string) { remove(t, path); remove(t, path+"-wal") }, "there was one before"},
		"database and log empty":        {func(t *testing.T, path string) { empty(t, path); empty(t, path+"-wal") }, "there was one before"},
		"something else": {func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("something else", 1000)), 0o600))
		}, "no SQLite database"},
		"another database": {func(t *testing.T, path string) {
			remove(t, path)
			db, err := sql.Open("sqlite", dsn(filepath.Join(filepath.Dir(path), "other.db")))
			require.NoError(t, err)
			_, err = db.Exec("CREATE TABLE t (x); PRAGMA user_version = 1")
			require.NoError(t, err)
			require.NoError(t, db.Close())
			require.NoError(t, os.Rename(filepath.Join(filepath.Dir(path), "other.db"), path))
		}, "database of something else"},
		"cut": {func(t *testing.T, path string) {
			empty(t, path+"-wal")
			require.NoError(t, os.Truncate(path, 5*pageSize))
		}, "was cut"},
		"without tables": {func(t *testing.T, path string) {
			db, err := sql.Open("sqlite", dsn(path))
			require.NoError(t, err)
			_, err = db.Exec("PRAGMA user_version = 0; PRAGMA application_id = 0")
			require.NoError(t, err)
			require.NoError(t, db.Close())
		}, "lost its tables"},
	} {
		t.Run(name, func(t *testing.T) {
			path := crashed(t, running)
			test.harm(t, path)
			var before []byte
			if content, err := os.ReadFile(path + "-wal"); err == nil {
				before = content
			}
			for range 2 { // the first attempt must not make it look right
				_, err := Open(path, Options{})
				require.ErrorContains(t, err, test.says)
			}
			after, err := os.ReadFile(path + "-wal")
			if before != nil {
				require.NoError(t, err)
				require.Equal(t, len(before), len(after), "the log is needed once the database is back")
			}
		})
	}
}

// A copy of the database without the files beside it is a backup.
func TestRestore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.db")
	s := open(t, path)
	put(t, s, mail(1))
	require.NoError(t, s.Close())
	backup := filepath.Join(t.TempDir(), "backup")
	copyFile(t, path, backup)
	s = open(t, path)
	put(t, s, mail(2))
	left := crashed(t, path) // as if it had been killed
	require.NoError(t, os.Remove(left))
	require.NoError(t, os.Remove(left+"-wal"))
	require.NoError(t, os.Remove(left+"-shm"))
	copyFile(t, backup, left)

	s = open(t, left)
	entries, err := s.Next(t.Context(), "b", 0, 10, math.MaxInt64)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	put(t, s, mail(3))
}

// A process that ends while it makes a database is in nobody's way.
func TestEndedWhileMaking(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.db")
	require.NoError(t, os.WriteFile(path+"-lock", nil, 0o600)) // the lock was taken
	s := open(t, path)
	require.NoError(t, s.Close())

	path = filepath.Join(t.TempDir(), "relay.db")
	require.NoError(t, os.WriteFile(path+"-lock", nil, 0o600))
	require.NoError(t, os.WriteFile(path, nil, 0o600)) // and the file was made
	s = open(t, path)
	require.NoError(t, s.Close())

	path = filepath.Join(t.TempDir(), "relay.db")
	require.NoError(t, os.WriteFile(path+"-lock", nil, 0o600))
	db, err := sql.Open("sqlite", dsn(path))
	require.NoError(t, err)
	_, err = db.Exec("PRAGMA auto_vacuum = 2; PRAGMA journal_mode = wal") // and it got its first page
	require.NoError(t, err)
	require.NoError(t, db.Close())
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.EqualValues(t, pageSize, info.Size())
	s = open(t, path)
	put(t, s, mail(1))
}
