package sqlite

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// A file whose end is missing is refused when it is opened. A repair keeps all of it that
// is there, says that there was more, and keeps the file.
func TestRepairCutFile(t *testing.T) {
	path, entries := filled(t, 60, 3000)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, info.Size()/pageSize/2*pageSize))
	_, err = Open(path, Options{})
	require.ErrorContains(t, err, "was cut")
	repaired, err := Repair(path)
	require.NoError(t, err)
	require.True(t, repaired.Cut)
	require.Equal(t, path+damagedSuffix, repaired.Damaged)
	require.FileExists(t, repaired.Damaged)
	s := open(t, path)
	kept := holds(t, s, "b")
	require.Len(t, kept, repaired.Kept)
	require.Greater(t, len(kept), 10)
	require.Subset(t, entries, kept)
}

// A database without damage stays as it is, and nothing else is left.
func TestRepairWhole(t *testing.T) {
	path, entries := filled(t, 5, 9000)
	repaired, err := Repair(path)
	require.NoError(t, err)
	require.Equal(t, Repaired{Kept: 5}, repaired)
	requireHolds(t, path, entries)
	names, err := filepath.Glob(path + "*")
	require.NoError(t, err)
	require.ElementsMatch(t, []string{path, path + "-lock"}, names)

	for content, want := range map[string]string{"": "missing or empty", "nonsense": "nothing of a relay"} {
		other := filepath.Join(t.TempDir(), "relay.db")
		require.NoError(t, os.WriteFile(other, []byte(content), 0o600))
		_, err = Repair(other)
		require.ErrorContains(t, err, want)
		left, err := os.ReadFile(other)
		require.NoError(t, err)
		require.Equal(t, content, string(left))
	}
}

// A badDisk doesn't give one page.
type badDisk struct {
	file
	page uint32
}

func (d badDisk) ReadAt(p []byte, at int64) (int, error) {
	if at == int64(d.page-1)*pageSize {
		return 0, syscall.EIO
	}
	return d.file.ReadAt(p, at)
}

// A page that the disk doesn't give ends a repair when the database is opened, since it
// may come back. A repair that is asked for goes on without it.
func TestRepairWithoutAPage(t *testing.T) {
	path, entries := filled(t, 60, 100)
	from, err := openSalvage(path)
	require.NoError(t, err)
	require.NoError(t, errors.Join(from.scan(func(store.Note) error { return nil }), from.close()))
	bad := from.leaves[1].page
	lock, err := takeLock(path + "-lock")
	require.NoError(t, err)
	run := func(open opener) (Repaired, error) {
		r := &repair{path: path, lock: lock, first: 1}
		return r.run(func(path string) (*salvage, error) {
			s, err := open(path)
			require.NoError(t, err)
			s.f = badDisk{s.f, bad}
			return s, nil
		})
	}
	_, err = run(openSalvage)
	require.ErrorIs(t, err, syscall.EIO)
	require.NoFileExists(t, path+damagedSuffix)
	repaired, err := run(openImpatient)
	require.NoError(t, err)
	require.Equal(t, 1, repaired.UnreadPages)
	require.FileExists(t, repaired.Damaged)
	require.NoError(t, lock.remember())
	require.NoError(t, lock.close())
	s := open(t, path)
	kept := holds(t, s, "b")
	require.Subset(t, entries, kept)
	require.Len(t, kept, repaired.Kept)
	require.Greater(t, len(kept), 20)
	require.Less(t, len(kept), 60)
}
