package sqlite

import (
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
			untilSize(t, copied+partSuffix)
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
