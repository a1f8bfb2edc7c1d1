package sqlite

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// editPages changes the pages of a file below a store, for which edit returns
// true.
func editPages(t *testing.T, path string, edit func(n int, p *page) bool) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	info, err := f.Stat()
	require.NoError(t, err)
	edited := 0
	for n := 1; int64(n)*pageSize <= info.Size(); n++ {
		var p page
		_, err := f.ReadAt(p[:], int64(n-1)*pageSize)
		require.NoError(t, err)
		if edit(n, &p) {
			_, err := f.WriteAt(p[:], int64(n-1)*pageSize)
			require.NoError(t, err)
			edited++
		}
	}
	require.Equal(t, 1, edited)
	require.NoError(t, f.Close())
}

// editLeaf changes the first page with at least five entries.
func editLeaf(t *testing.T, path string, edit func(p *page)) {
	t.Helper()
	first := true
	editPages(t, path, func(_ int, p *page) bool {
		cells, _ := p.cells(0)
		if p[0] != tableLeaf || len(cells) < 5 || !first {
			return false
		}
		first = false
		edit(p)
		return true
	})
}

// filled returns the path of a database with mail of that size for b, which is
// closed.
func filled(t *testing.T, count, size int) (path string, entries []store.Entry) {
	path = filepath.Join(t.TempDir(), "relay.db")
	s, err := Open(path, Options{SweepInterval: time.Hour})
	require.NoError(t, err)
	for n := range count {
		m := bigMail(n, size)
		m.Destination = "b"
		put(t, s, m)
	}
	entries = holds(t, s, "b")
	require.NoError(t, s.Close())
	return path, entries
}

func holds(t *testing.T, s *Store, name spec.ServerName) []store.Entry {
	entries, err := s.Next(t.Context(), name, 0, 1000, math.MaxInt64)
	require.NoError(t, err)
	return entries
}

// isLiveIndex reports whether a page is a leaf of the index of live entries.
func isLiveIndex(p *page) bool {
	cells, _ := p.cells(0)
	if p[0] != indexLeaf || len(cells) == 0 {
		return false
	}
	kinds, _ := kinds(cells[0].local, cells[0].size)
	for _, kind := range kinds {
		if kind >= 10 {
			return false
		}
	}
	return len(kinds) >= 4
}

// An index that hides entries, without being broken, doesn't make Next pass over
// them: the receiver would acknowledge them unseen.
func TestIndexHidesEntries(t *testing.T) {
	for name, harm := range map[string]func(p *page){
		"another first": func(p *page) { copy(p[8:10], p[18:20]) },
		"the end":       func(p *page) { binary.BigEndian.PutUint16(p[3:], 7) },
		"all":           func(p *page) { binary.BigEndian.PutUint16(p[3:], 0) },
	} {
		t.Run(name, func(t *testing.T) {
			path, want := filled(t, 10, 100)
			s := open(t, path)
			editPages(t, path, func(_ int, p *page) bool {
				if !isLiveIndex(p) {
					return false
				}
				harm(p)
				return true
			})
			after := int64(0)
			for _, e := range want {
				got, err := s.Next(t.Context(), "b", after, 1, math.MaxInt64)
				require.NoError(t, err)
				require.Equal(t, []store.Entry{e}, got)
				after = e.ID
			}
			_, err := s.Next(t.Context(), "b", after, 1, math.MaxInt64)
			require.ErrorIs(t, err, store.ErrEmpty)
			require.ErrorIs(t, s.Failure(), store.ErrReopen)
			_, err = s.Put(t.Context(), mail(1), store.Limits{})
			require.ErrorIs(t, err, store.ErrReopen)
			require.NoError(t, s.Close())
			s = open(t, path)
			require.Equal(t, want, holds(t, s, "b"))
			put(t, s, mail(1))
		})
	}
}

// To remove an entry whose row leads to pages of another one would take that with
// it.
func TestRowLeadsElsewhere(t *testing.T) {
	path, entries := filled(t, 4, 9000)
	s := open(t, path)
	require.NoError(t, s.writer.exec("PRAGMA shrink_memory")) // the pages that it has read at open
	editPages(t, path, func(_ int, p *page) bool {
		cells, _ := p.cells(0)
		if p[0] != tableLeaf || len(cells) != 4 || cells[3].beyond == 0 {
			return false
		}
		at := p.number(10) // of the second
		c, length, ok := p.cell(tableLeaf, at)
		require.True(t, ok)
		require.NotEqual(t, c.beyond, cells[2].beyond)
		binary.BigEndian.PutUint32(p[at+length-4:], cells[2].beyond)
		return true
	})
	_, err := s.Ack(t.Context(), "b", entries[1].ID)
	require.ErrorIs(t, err, store.ErrReopen)
	require.NoError(t, s.Close())
	s = open(t, path)
	require.Equal(t, []store.Entry{entries[0], entries[2], entries[3]}, holds(t, s, "b"))
	stored, err := s.Put(t.Context(), entries[1].Mail, store.Limits{})
	require.NoError(t, err)
	require.True(t, stored, "it isn't a copy of lost mail")
}

// A count that says that a mailbox is empty doesn't make its mail nobody's.
func TestCountIsWrong(t *testing.T) {
	path, entries := filled(t, 3, 100)
	s := open(t, path)
	_, err := s.writer.conn.ExecContext(t.Context(), "UPDATE mailbox SET entries = 1, bytes = ?", entries[0].Size())
	require.NoError(t, err)
	_, err = s.Ack(t.Context(), "b", entries[0].ID)
	require.ErrorIs(t, err, store.ErrReopen)
	require.NoError(t, s.Close())
	s = open(t, path)
	require.Equal(t, entries, holds(t, s, "b"))
	usage, err := s.Usage(t.Context(), "b")
	require.NoError(t, err)
	require.EqualValues(t, 3, usage.Entries)
}

// A repair that a crash ends, at any step, is done again.
func TestRepairIsEnded(t *testing.T) {
	path, entries := filled(t, 5, 9000)
	editPages(t, path, func(n int, p *page) bool { clear(p[:]); return n == 1 })
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	for name, crash := range map[string]func(path string){
		"while it builds": func(path string) { require.NoError(t, os.WriteFile(path+buildSuffix, before[:9000], 0o600)) },
		"between the renames": func(path string) {
			lock, err := takeLock(path + "-lock")
			require.NoError(t, err)
			require.NoError(t, repairFile(path, lock, 1, errDamaged, slog.New(slog.DiscardHandler)))
			require.NoError(t, lock.rememberReplacing())
			require.NoError(t, lock.close())
			require.NoError(t, os.Rename(path, path+buildSuffix))
			require.NoError(t, os.WriteFile(path+damagedSuffix, before, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			to := filepath.Join(t.TempDir(), "relay.db")
			copyFile(t, path, to)
			copyFile(t, path+"-lock", to+"-lock")
			crash(to)
			s := open(t, to)
			require.Equal(t, entries, holds(t, s, "b"))
			_, err := os.Stat(to + buildSuffix)
			require.ErrorIs(t, err, os.ErrNotExist)
		})
	}
}

// A file that couldn't be read whole stays beside the database for the operator, once.
func TestDamagedFileIsKept(t *testing.T) {
	path, entries := filled(t, 60, 100)
	lose := func() {
		editLeaf(t, path, func(p *page) { clear(p[100:]) })
	}
	for range 2 {
		lose()
		s, err := Open(path, Options{Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		require.Less(t, len(holds(t, s, "b")), len(entries))
		require.NoError(t, s.Close())
		names, err := filepath.Glob(path + "*")
		require.NoError(t, err)
		require.ElementsMatch(t, []string{path, path + "-lock", path + damagedSuffix}, names)
	}
}

// A receiver that waits in a database whose index is damaged waits on while there is no
// mail, and is told of mail that is there.
func TestWaitWithoutIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path, entries := filled(t, 10, 100)
		s, err := Open(path, Options{Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		editPages(t, path, func(_ int, p *page) bool {
			if !isLiveIndex(p) {
				return false
			}
			clear(p[:])
			return true
		})
		require.NoError(t, s.Wait(t.Context(), "b", 0))
		require.NoError(t, s.Wait(t.Context(), "b", entries[8].ID))
		require.ErrorIs(t, s.Failure(), store.ErrReopen)
		ctx, cancel := context.WithCancel(t.Context())
		var waited error
		go func() { waited = s.Wait(ctx, "b", entries[9].ID) }()
		synctest.Wait()
		require.NoError(t, waited, "it waits")
		cancel()
		synctest.Wait()
		require.ErrorIs(t, waited, context.Canceled)
		require.Equal(t, entries, holds(t, s, "b"))
		require.NoError(t, s.Close())
	})
}

// Where the entries can't be read either, Wait leaves it to Next to say so.
func TestWaitWithoutTable(t *testing.T) {
	path, _ := filled(t, 10, 100)
	s := openQuietly(t, path, Options{})
	editPages(t, path, func(_ int, p *page) bool {
		if !isLiveIndex(p) {
			return false
		}
		clear(p[:])
		return true
	})
	editLeaf(t, path, func(p *page) { clear(p[:]) })
	require.NoError(t, s.Wait(t.Context(), "b", 0))
	_, err := s.Next(t.Context(), "b", 0, 10, math.MaxInt64)
	require.ErrorIs(t, err, store.ErrReopen)
}

// A value that isn't of its column's type is damage of that row, and blocks no other.
func TestRowOfAnotherType(t *testing.T) {
	path, entries := filled(t, 4, 100)
	s := openQuietly(t, path, Options{})
	require.NoError(t, s.writer.exec("PRAGMA shrink_memory")) // the pages that it has read at open
	editPages(t, path, func(_ int, p *page) bool {
		cells, _ := p.cells(0)
		if p[0] != tableLeaf || len(cells) != 4 {
			return false
		}
		row := cells[1].local
		_, head := kinds(row, cells[1].size)
		require.EqualValues(t, 6, row[head-1], "prev is an integer of eight bytes")
		row[head-1] = 7 // a float
		return true
	})
	want := []store.Entry{entries[0], entries[2], entries[3]}
	require.Equal(t, want, holds(t, s, "b"))
	_, err := s.Ack(t.Context(), "b", entries[3].ID)
	require.ErrorIs(t, err, store.ErrReopen)
	require.NoError(t, s.Close())
	s = openQuietly(t, path, Options{})
	require.Equal(t, want, holds(t, s, "b"))
	put(t, s, entries[1].Mail)
}
