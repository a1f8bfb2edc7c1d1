package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// cycle has a name leave mail for itself and acknowledge it, so often, some at once.
func cycle(t *testing.T, s *Store, from, times int, name func(n int) spec.ServerName) {
	t.Helper()
	for n := from; n < from+times; n += 25 {
		var mails []store.Mail
		for i := n; i < min(n+25, from+times); i++ {
			m := mail(i)
			m.Origin = name(i)
			mails = append(mails, m)
		}
		require.NoError(t, s.PutAll(t.Context(), mails))
		entries, err := s.Next(t.Context(), "b", 0, len(mails), 1<<20)
		require.NoError(t, err)
		require.Len(t, entries, len(mails))
		_, err = s.Ack(t.Context(), "b", entries[len(mails)-1].ID)
		require.NoError(t, err)
	}
}

func oneName(int) spec.ServerName     { return "a" }
func manyNames(n int) spec.ServerName { return spec.ServerName(fmt.Sprint("made up ", n)) }

func remembers(t *testing.T, s *Store) int64 {
	t.Helper()
	sizes, err := s.Sizes(t.Context())
	require.NoError(t, err)
	var rows int64
	require.NoError(t, s.db.QueryRow("SELECT count(*) FROM entry WHERE state = ?", gone).Scan(&rows))
	require.Equal(t, rows, sizes.Copies)
	return rows
}

// A stranger that leaves mail for itself and acknowledges it, again and again, has the file
// grow by its part and no further, under one name or under many.
func TestCyclesStayWithinTheirPart(t *testing.T) {
	for name, c := range map[string]struct {
		name func(int) spec.ServerName
		most int64
	}{"one": {oneName, 50}, "many": {manyNames, 200}} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "relay.db")
			s := openQuietly(t, path, Options{MaxCopies: 200, MaxCopiesOfOrigin: 50, SweepInterval: -1, checkpointBytes: 64 << 10})
			cycle(t, s, 0, 300, c.name)
			require.Equal(t, c.most, remembers(t, s))
			before, err := s.Sizes(t.Context())
			require.NoError(t, err)
			cycle(t, s, 300, 700, c.name)
			require.Equal(t, c.most, remembers(t, s))
			after, err := s.Sizes(t.Context())
			require.NoError(t, err)
			require.LessOrEqual(t, after.File, before.File+32<<10, "700 more are at least 280 KB without a limit")
			require.NoError(t, s.Close())
			info, err := os.Stat(path)
			require.NoError(t, err)
			require.Less(t, info.Size(), 100<<10+c.most*1500)
		})
	}
}

// A file that has more than the limit, from before, loses the oldest of it.
func TestTooManyFromBefore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.db")
	s := openQuietly(t, path, Options{SweepInterval: -1, MaxCopies: -1})
	cycle(t, s, 0, 700, oneName)
	require.EqualValues(t, 700, remembers(t, s))
	require.NoError(t, s.Close())

	s = openQuietly(t, path, Options{SweepInterval: -1, MaxCopies: 100})
	require.EqualValues(t, 700, remembers(t, s))
	require.NoError(t, s.sweep(t.Context()))
	require.EqualValues(t, 100, remembers(t, s))
	for n, isKnown := range map[int]bool{0: false, 599: false, 600: true, 699: true} {
		stored, err := s.Put(t.Context(), mail(n), store.Limits{})
		require.NoError(t, err)
		require.Equal(t, !isKnown, stored, "mail %d", n)
	}
}

// A commit that fails forgets nothing, and the counts stay right.
func TestCopiesAfterAFailedCommit(t *testing.T) {
	s := openQuietly(t, filepath.Join(t.TempDir(), "relay.db"), Options{SweepInterval: -1, MaxCopies: 20, MaxCopiesOfOrigin: 10})
	cycle(t, s, 0, 10, oneName)
	put(t, s, mail(10))
	entries, err := s.Next(t.Context(), "b", 0, 1, 1)
	require.NoError(t, err)
	failed := errors.New("failed")
	ack := &ackJob{destination: "b", id: entries[0].ID}
	err = s.writer.do(t.Context(), func(b *batch) error { return errors.Join(ack.run(b), b.forgetMore(), failed) }, 0)
	require.ErrorIs(t, err, failed)
	require.EqualValues(t, 10, remembers(t, s))
	for n := range 11 {
		stored, err := s.Put(t.Context(), mail(n), store.Limits{})
		require.NoError(t, err)
		require.False(t, stored, "mail %d", n)
	}
	_, err = s.Ack(t.Context(), "b", entries[0].ID)
	require.NoError(t, err)
	cycle(t, s, 11, 50, oneName)
	require.EqualValues(t, 20, remembers(t, s), "those of before the failure count in the limit of all alone")
}
