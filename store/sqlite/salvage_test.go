package sqlite

import (
	"bytes"
	"database/sql"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
)

func openQuietly(t *testing.T, path string, options Options) *Store {
	t.Helper()
	options.Logger = slog.New(slog.DiscardHandler)
	s, err := Open(path, options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// One bit makes a page of entries look like one that leads to others. Its entries
// are found, and the file is kept.
func TestLeafLooksLikeInterior(t *testing.T) {
	path, entries := filled(t, 60, 100)
	editLeaf(t, path, func(p *page) { p[0] = tableInterior })
	s := openQuietly(t, path, Options{})
	require.Equal(t, entries, holds(t, s, "b"))
	require.FileExists(t, path+damagedSuffix)
}

// Mail that was acknowledged, and stored again since the index of copies didn't know
// it, is there after a repair.
func TestStoredAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.db")
	s := openQuietly(t, path, Options{})
	put(t, s, mail(1))
	_, err := s.Ack(t.Context(), mail(1).Destination, holds(t, s, mail(1).Destination)[0].ID)
	require.NoError(t, err)
	require.NoError(t, s.Close())

	m, other := mail(1), seal.Key{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	key := seal.KeyOf(&m)
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	_, err = db.Exec(`UPDATE entry SET copy_key = ?`, other[:])
	require.NoError(t, errors.Join(err, db.Close()))
	s = openQuietly(t, path, Options{})
	put(t, s, mail(1))
	want := holds(t, s, mail(1).Destination)
	require.NoError(t, s.Close())

	editPages(t, path, func(_ int, p *page) bool {
		at := bytes.Index(p[:], other[:])
		if p[0] != tableLeaf || at < 0 {
			return false
		}
		copy(p[at:], key[:])
		return true
	})
	s = openQuietly(t, path, Options{})
	require.Equal(t, want, holds(t, s, mail(1).Destination))
}

// A pointer that leads to another row of the same length hides one.
func TestRowTwice(t *testing.T) {
	path, entries := filled(t, 9, 100)
	editPages(t, path, func(_ int, p *page) bool {
		cells, isWhole := p.cells(0)
		if p[0] != tableLeaf || len(cells) != 9 {
			return false
		}
		require.True(t, isWhole)
		copy(p[8+2*3:], p[8+2*5:8+2*6])
		_, isWhole = p.cells(0)
		require.False(t, isWhole)
		return true
	})
	s := openQuietly(t, path, Options{})
	require.Equal(t, entries, holds(t, s, "b"))
	require.FileExists(t, path+damagedSuffix)
}

// A list of free pages that names one in use hides no entries.
func TestFreePageIsInUse(t *testing.T) {
	path, entries := filled(t, 60, 100)
	s := openQuietly(t, path, Options{SweepInterval: time.Hour})
	m := bigMail(1000, 40_000)
	m.Destination = "c"
	put(t, s, m)
	_, err := s.Ack(t.Context(), "c", holds(t, s, "c")[0].ID)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	from, err := openSalvage(path)
	require.NoError(t, err)
	require.NoError(t, from.scan(func(store.Note) error { return nil }))
	require.NotEmpty(t, from.free)
	var p page
	require.NoError(t, from.read(1, &p))
	require.NoError(t, from.close())
	trunk := int(binary.BigEndian.Uint32(p[32:]))
	editPages(t, path, func(n int, p *page) bool {
		if n == trunk {
			binary.BigEndian.PutUint32(p[8:], from.leaves[1].page)
		}
		return n == trunk
	})
	s = openQuietly(t, path, Options{})
	require.Equal(t, entries, holds(t, s, "b"))
}

// A repair without a loss leaves the file of an earlier one with a loss.
func TestDamagedFileOutlivesOtherRepairs(t *testing.T) {
	path, entries := filled(t, 5, 100)
	require.NoError(t, os.WriteFile(path+damagedSuffix, []byte("of an earlier repair"), 0o600))
	editPages(t, path, func(n int, p *page) bool { p[0] = 'x'; return n == 1 })
	s := openQuietly(t, path, Options{})
	require.Equal(t, entries, holds(t, s, "b"))
	require.FileExists(t, path+damagedSuffix)
}

// A database that was taken away from beside the rest of an earlier repair isn't begun
// anew, and nothing old comes back in its place.
func TestTakenAwayAfterRepair(t *testing.T) {
	for _, left := range []string{buildSuffix, damagedSuffix} {
		for _, withLock := range []bool{true, false} {
			path, entries := filled(t, 5, 100)
			copyFile(t, path, path+left)
			copyFile(t, path, path+damagedSuffix) // of a repair before that
			require.NoError(t, os.Rename(path, path+".away"))
			if !withLock {
				require.NoError(t, os.Remove(path+"-lock"))
			}
			for range 2 {
				_, err := Open(path, Options{})
				require.ErrorContains(t, err, "put it back")
				require.NoFileExists(t, path)
				require.FileExists(t, path+left)
			}
			require.NoError(t, os.Rename(path+".away", path))
			s := openQuietly(t, path, Options{})
			require.Equal(t, entries, holds(t, s, "b"))
			require.NoFileExists(t, path+buildSuffix)
		}
	}
}

// A damaged file of a newer program isn't rebuilt as one of this program, which would
// lose all that this one doesn't know.
func TestDamagedFileIsNewer(t *testing.T) {
	path, _ := filled(t, 5, 100)
	editPages(t, path, func(n int, p *page) bool {
		if n == 1 {
			binary.BigEndian.PutUint32(p[60:], uint32(len(migrations)+1))
		}
		return n == 1
	})
	lock, err := takeLock(path + "-lock")
	require.NoError(t, err)
	require.NoError(t, errors.Join(lock.rememberDamage(), lock.close()))
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	for range 2 {
		_, err = Open(path, Options{Logger: slog.New(slog.DiscardHandler)})
		require.ErrorContains(t, err, "this program knows up to")
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(before, after), "it is left as it is")
		require.NoFileExists(t, path+damagedSuffix)
	}
}

// A repair that fails closes its files exactly once, and can be tried again.
func TestRepairFails(t *testing.T) {
	path, entries := filled(t, 5, 100)
	s, err := Open(path, Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	s.stop()
	s.background.Wait()
	require.NoError(t, s.undoStart()) // as after damage that shows when all is open
	require.NoError(t, s.release())

	editLeaf(t, path, func(p *page) { p[0] = tableInterior })
	require.NoError(t, os.MkdirAll(filepath.Join(path+buildSuffix, "in its way"), 0o700))
	for range 2 {
		_, err := Open(path, Options{Logger: slog.New(slog.DiscardHandler)})
		require.Error(t, err)
		require.NotContains(t, err.Error(), "in use")
	}
	require.NoError(t, os.RemoveAll(path+buildSuffix))
	s = openQuietly(t, path, Options{})
	require.Equal(t, entries, holds(t, s, "b"))
}

// A note that can't be read is a loss: its file is kept.
func TestNoteIsLost(t *testing.T) {
	path, _ := filled(t, 1, 100)
	s := openQuietly(t, path, Options{})
	require.NoError(t, s.SetNotes(t.Context(), []store.Note{{Key: "long", Value: make([]byte, 9000)}}))
	require.NoError(t, s.Close())
	editPages(t, path, func(_ int, p *page) bool {
		cells, _ := p.cells(0)
		if p[0] != indexLeaf || len(cells) != 1 || cells[0].beyond == 0 {
			return false
		}
		at := p.number(8)
		_, length, _ := p.cell(indexLeaf, at)
		clear(p[at+length-4 : at+length]) // where it goes on
		return true
	})
	openQuietly(t, path, Options{})
	require.FileExists(t, path+damagedSuffix)
}

// Damaged numbers of the first page are repaired.
func TestFirstPageNumbers(t *testing.T) {
	path, entries := filled(t, 5, 100)
	for name, at := range map[string]int{"pages": 28, "pages a little": 31, "negative version": 60} {
		t.Run(name, func(t *testing.T) {
			to := filepath.Join(t.TempDir(), "relay.db")
			copyFile(t, path, to)
			copyFile(t, path+"-lock", to+"-lock")
			editPages(t, to, func(n int, p *page) bool { p[at] ^= 0x80; return n == 1 })
			s := openQuietly(t, to, Options{})
			require.Equal(t, entries, holds(t, s, "b"))
		})
	}
}
