package sqlite

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// backedUp makes a backup of a database, which then gets one entry more. Its folder is that
// of the database.
func backedUp(t *testing.T) (path, backup string, then, now []store.Entry) {
	path, then = filled(t, 5, 9000)
	backup = filepath.Join(filepath.Dir(path), "backup")
	s, err := Open(path, Options{SweepInterval: time.Hour})
	require.NoError(t, err)
	require.NoError(t, s.Backup(t.Context(), backup))
	now = putOneMore(t, s, 100)
	require.NoError(t, s.Close())
	require.Len(t, now, len(then)+1)
	return path, backup, then, now
}

// putOneMore returns all entries with one more.
func putOneMore(t *testing.T, s *Store, id int) []store.Entry {
	m := bigMail(id, 100)
	m.Destination = "b"
	put(t, s, m)
	return holds(t, s, "b")
}

// A backup takes the place of a database only if that is wanted, and the database is kept
// with its log.
func TestRestoreReplaces(t *testing.T) {
	path, backup, then, _ := backedUp(t)
	s := open(t, path)
	now := putOneMore(t, s, 101)
	path = crashed(t, path) // its last mail is in the log alone
	require.ErrorIs(t, Restore(t.Context(), backup, path, RestoreOptions{}), fs.ErrExist)
	var told []int64
	replace := RestoreOptions{Replace: true, Progress: func(done, all int64) { told = append(told, done, all) }}
	require.NoError(t, Restore(t.Context(), backup, path, replace))
	const kept = "that an earlier restore has replaced"
	require.ErrorContains(t, Restore(t.Context(), backup, path, replace), kept, "the same again, since it was ended, say")
	requireHolds(t, path+beforeSuffix, now)
	require.NoError(t, os.Rename(path+beforeSuffix, path+beforeSuffix+"-wal"))
	require.ErrorContains(t, Restore(t.Context(), backup, path, replace), kept)
	require.NoError(t, os.Remove(path+beforeSuffix+"-wal"))
	require.NoError(t, Restore(t.Context(), backup, path, replace))
	require.Equal(t, told[1], told[len(told)-2], "all of it")
	s = open(t, path)
	require.Equal(t, then, holds(t, s, "b"))
	entries := putOneMore(t, s, 101)
	require.Greater(t, entries[len(entries)-1].ID, then[len(then)-1].ID+1, "IDs go on after those of mail that is lost")
	require.NoError(t, s.Close())
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())
	require.NoFileExists(t, path+buildSuffix)
}

// requireHolds opens a database, which must have these entries.
func requireHolds(t *testing.T, path string, want []store.Entry) {
	t.Helper()
	s, err := Open(path, Options{SweepInterval: time.Hour})
	require.NoError(t, err)
	require.Equal(t, want, holds(t, s, "b"))
	require.NoError(t, s.Close())
}

// Where there is no database any more, a backup needs no permission.
func TestRestoreToNothing(t *testing.T) {
	path, backup, then, _ := backedUp(t)
	empty := filepath.Join(t.TempDir(), "relay.db")
	require.NoError(t, Restore(t.Context(), backup, empty, RestoreOptions{}))
	requireHolds(t, empty, then)

	require.NoError(t, os.Remove(path))
	require.NoError(t, Restore(t.Context(), backup, path, RestoreOptions{}))
	requireHolds(t, path, then)

	require.NoError(t, os.Rename(path, path+"-wal")) // a log without its database
	require.ErrorIs(t, Restore(t.Context(), backup, path, RestoreOptions{}), fs.ErrExist)
	require.ErrorIs(t, Restore(t.Context(), backup, filepath.Join(path+"-nowhere", "relay.db"), RestoreOptions{}), fs.ErrNotExist)
}

// A crash between any two steps leaves the old state or the new one.
func TestRestoreIsEnded(t *testing.T) {
	path, backup, then, _ := backedUp(t)
	now := putOneMore(t, open(t, path), 101)
	killed := crashed(t, path) // its last mail is in the log alone
	for name, c := range map[string]struct {
		crash func(to string) error
		want  []store.Entry
	}{
		"while it copies":       {func(to string) error { return os.Truncate(to+buildSuffix, 9000) }, now},
		"when the copy is done": {func(string) error { return nil }, now},
		"when it is to replace": {func(to string) error { return noteReplacing(to) }, now},
		"when the old one has gone": {func(to string) error {
			return errors.Join(noteReplacing(to), os.Rename(to, to+beforeSuffix))
		}, then},
		"when its log has gone": {func(to string) error {
			return errors.Join(noteReplacing(to), os.Rename(to, to+beforeSuffix), os.Rename(to+"-wal", to+beforeSuffix+"-wal"))
		}, then},
	} {
		t.Run(name, func(t *testing.T) {
			to := filepath.Join(t.TempDir(), "relay.db")
			for _, suffix := range []string{"", "-wal", "-shm", "-lock"} {
				copyFile(t, killed+suffix, to+suffix)
			}
			copyFile(t, backup, to+buildSuffix)
			require.NoError(t, c.crash(to))
			requireHolds(t, to, c.want)
			require.NoFileExists(t, to+buildSuffix)
			if _, err := os.Stat(to + beforeSuffix); err == nil {
				requireHolds(t, to+beforeSuffix, now)
			}
		})
	}
}

func noteReplacing(path string) error {
	lock, err := takeLock(path + "-lock")
	if err != nil {
		return err
	}
	return errors.Join(lock.rememberReplacing(), lock.close())
}

// A database that is in use isn't replaced, nor is one by a file that is no whole backup.
func TestRestoreRefuses(t *testing.T) {
	path, backup, _, now := backedUp(t)
	cut, other, live := backup+"-cut", backup+"-other", backup+"-live"
	copyFile(t, backup, cut)
	require.NoError(t, os.Truncate(cut, 3*pageSize))
	require.NoError(t, os.WriteFile(other, make([]byte, 9000), 0o600))
	copyFile(t, backup, live)
	require.NoError(t, os.WriteFile(live+"-wal", []byte("log"), 0o600))
	replace := RestoreOptions{Replace: true}
	for from, want := range map[string]string{
		cut: "was cut", other: "no SQLite database", live: "has a log beside it", backup + "-nosuch": "no such file", filepath.Dir(path): "is a directory",
	} {
		require.ErrorContains(t, Restore(t.Context(), from, path, replace), want)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, Restore(canceled, backup, path, replace), context.Canceled)
	require.NoFileExists(t, path+buildSuffix)
	s := open(t, path)
	require.ErrorIs(t, Restore(t.Context(), backup, path, replace), errInUse)
	require.ErrorIs(t, Restore(t.Context(), path, backup+"-new", replace), errInUse)
	_, err := Repair(path)
	require.ErrorIs(t, err, errInUse)
	require.Equal(t, now, holds(t, s, "b"))
}
