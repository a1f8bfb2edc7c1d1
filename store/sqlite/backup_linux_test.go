package sqlite

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/need"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/store"
)

// A process that is killed at any moment of a backup leaves none or a whole one, and the
// next takes the place of the unfinished one.
func TestBackupKilled(t *testing.T) {
	random := rand.New(rand.NewPCG(seeds.Of(t, "RELAY_SQLITE_BACKUP_SEED"), 0))
	folder := t.TempDir()
	path := filepath.Join(folder, "relay.db")
	s := open(t, path)
	const n = 100
	for i := range n {
		put(t, s, heavy(i))
	}
	require.NoError(t, s.Close())
	unfinished := 0
	for round := range 4 {
		copied := filepath.Join(folder, fmt.Sprint("copy", round))
		c := startChild(t, path)
		require.Equal(t, "ok", c.do("noop"))
		_, err := fmt.Fprintln(c.in, "backup "+copied)
		require.NoError(t, err)
		if round%2 == 0 {
			until(t, func() bool { return hasMore(copied+partSuffix, 0) || hasMore(copied, 0) })
		}
		time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond)
		require.NoError(t, c.cmd.Process.Kill())
		_ = c.cmd.Wait() // it was killed
		if _, err := os.Stat(copied); err != nil {
			require.ErrorIs(t, err, os.ErrNotExist)
			unfinished++
			s := open(t, path)
			require.NoError(t, s.Backup(t.Context(), copied))
			require.NoError(t, s.Close())
		}
		require.NoFileExists(t, copied+partSuffix)
		requireKept(t, copied, 0, 1, n/2, n-1)
	}
	t.Logf("%d backups were unfinished", unfinished)
}

// A full disk ends a backup, and not the store.
func TestBackupOnFullDisk(t *testing.T) {
	small, path := smallDisk(t, "1m"), filepath.Join(t.TempDir(), "relay.db")
	s := open(t, path)
	for i := range 80 {
		put(t, s, heavy(i))
	}
	copied := filepath.Join(small, "copy")
	require.ErrorIs(t, s.Backup(t.Context(), copied), store.ErrFull)
	require.NoFileExists(t, copied)
	require.NoFileExists(t, copied+partSuffix)
	put(t, s, mail(1000))
	require.NoError(t, s.Failure())
}

// A disk that fills up in the middle of a backup ends it likewise.
func TestBackupFillsDisk(t *testing.T) {
	need.Root(t)
	folder := t.TempDir()
	c := startChild(t, filepath.Join(folder, "relay.db"))
	require.Equal(t, "ok", c.do("put 0"))
	copied := filepath.Join(folder, "copy")
	end := c.inject("pwrite64", "ENOSPC")
	require.Equal(t, "full", c.do("backup "+copied))
	require.NoFileExists(t, copied)
	require.NoFileExists(t, copied+partSuffix)
	end()
	require.Equal(t, "ok", c.do("put 1"))
	c.stop()
}

// A backup that has no room on the store's own disk doesn't use that up before it fails:
// mail would be refused.
func TestBackupLeavesRoomForMail(t *testing.T) {
	small := smallDisk(t, "48m")
	s := openQuietly(t, filepath.Join(small, "relay.db"), Options{})
	for n := range 24 {
		large := mail(n)
		large.Body = bytes.Repeat([]byte{byte(n)}, 1<<20)
		put(t, s, large)
	}
	outcome := make(chan error, 1)
	go func() { outcome <- s.Backup(t.Context(), filepath.Join(small, "copy")) }()
	for n := 1000; ; n++ {
		put(t, s, mail(n))
		select {
		case err := <-outcome:
			require.ErrorIs(t, err, store.ErrFull)
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// A backup ends when the log, which can't shrink before, leaves too little of the store's
// disk; with a shorter log it goes on, so that a store whose disk is nearly full can be saved.
func TestBackupOnNearlyFullDisk(t *testing.T) {
	small := smallDisk(t, "48m")
	path := filepath.Join(small, "relay.db")
	fill := openQuietly(t, path, Options{})
	for n := range 24 {
		large := mail(n)
		large.Body = bytes.Repeat([]byte{byte(n)}, 1<<20)
		put(t, fill, large)
	}
	require.NoError(t, fill.Close())
	for backupLog, want := range map[int64]error{1: store.ErrFull, 64 << 20: nil} {
		s, err := Open(path, Options{backupLog: backupLog})
		require.NoError(t, err)
		put(t, s, mail(int(100+backupLog))) // into the log
		require.ErrorIs(t, s.Backup(t.Context(), filepath.Join(t.TempDir(), "copy")), want)
		put(t, s, mail(int(101+backupLog)))
		require.NoError(t, s.Close())
	}
}

// A copy that isn't on the disk gets no name.
func TestBackupFailedSync(t *testing.T) {
	need.Root(t)
	folder := t.TempDir()
	c := startChild(t, filepath.Join(folder, "relay.db"))
	require.Equal(t, "ok", c.do("put 0"))
	copied := filepath.Join(folder, "copy")
	end := c.inject("fsync,fdatasync", "EIO")
	require.Contains(t, c.do("backup "+copied), "input/output error")
	require.NoFileExists(t, copied)
	require.NoFileExists(t, copied+partSuffix)
	end()
	require.Equal(t, "ok", c.do("backup "+copied))
	require.Equal(t, "ok", c.do("put 1"))
	c.stop()
	requireKept(t, copied, 0)
}
