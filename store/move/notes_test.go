package move

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// unclosed leaves a store open when the move is closed.
type unclosed struct {
	store.Store
	noter
}

func (unclosed) Close() error { return nil }

func leaveOpen(s interface {
	store.Store
	store.Notes
}) unclosed {
	return unclosed{s, s}
}

func note(key, value string) store.Note { return store.Note{Key: key, Value: []byte(value)} }

func noted(t *testing.T, s store.Notes) map[string]string {
	t.Helper()
	values := make(map[string]string)
	for after := ""; ; {
		page, err := s.Notes(t.Context(), "", after, 3)
		require.NoError(t, err)
		if len(page) == 0 {
			return values
		}
		for _, n := range page {
			values[n.Key] = string(n.Value)
			after = n.Key
		}
	}
}

// Notes are copied once, and those of the new store count.
func TestNotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		defer func() { require.NoError(t, from.Close()) }()
		defer func() { require.NoError(t, to.Close()) }()
		require.NoError(t, from.SetNotes(t.Context(), []store.Note{
			note("a", "old"), note("b", "old"), note("c", "old"), note("outbox/x", "old"), note("z", "old"),
		}))
		require.NoError(t, to.SetNotes(t.Context(), []store.Note{note("b", "new"), note("bb", "new"), note("zz", "new")}))
		s := done(t, leaveOpen(from), leaveOpen(to), day).(*Store)
		want := map[string]string{"a": "old", "b": "new", "bb": "new", "c": "old", "z": "old", "zz": "new"}
		require.Equal(t, want, noted(t, s))
		require.NoError(t, s.SetNotes(t.Context(), []store.Note{{Key: "a"}}))
		delete(want, "a")
		require.Equal(t, want, noted(t, s))
		require.NoError(t, s.Close())

		s = done(t, leaveOpen(from), leaveOpen(to), day).(*Store)
		require.Equal(t, want, noted(t, s), "what was removed stays so")
		require.NoError(t, s.Close())
	})
}

// There are more notes than there are in a page.
func TestManyNotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		want := make(map[string]string)
		for n := range 3 * notePage {
			key := string(mailOf("k", n).TransactionID)
			want[key] = "old"
			require.NoError(t, from.SetNotes(t.Context(), []store.Note{note(key, "old")}))
			if n%2 == 0 {
				want[key] = "new"
				require.NoError(t, to.SetNotes(t.Context(), []store.Note{note(key, "new")}))
			}
		}
		s := done(t, from, to, day).(*Store)
		closeAfter(t, s)
		require.Equal(t, want, noted(t, s))
	})
}

// The way back would lose what the first store remembers as moved, so it is
// refused until that has forgotten it.
func TestWayBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		defer func() { require.NoError(t, from.Close()) }()
		defer func() { require.NoError(t, to.Close()) }()
		keep(t, from, mailOf("a", 1))
		s := done(t, leaveOpen(from), leaveOpen(to), day).(*Store)
		<-s.Done()
		require.NoError(t, s.Close())
		_, err := Open(t.Context(), to, from, Options{Logger: quiet})
		require.ErrorIs(t, err, ErrTooSoon)
		numbers(t, to, "a", 1)

		time.Sleep(day + 2*markEvery)
		keep(t, to, mailOf("a", 2))
		require.NoError(t, from.SetNotes(t.Context(), []store.Note{note("k", "old")}))
		require.NoError(t, to.SetNotes(t.Context(), []store.Note{note("l", "new")}))
		back := done(t, leaveOpen(to), leaveOpen(from), day).(*Store)
		<-back.Done()
		require.NoError(t, back.Close())
		numbers(t, from, "a", 1, 2)
		require.Subset(t, noted(t, from), map[string]string{"k": "old", "l": "new"})

		time.Sleep(day + 2*markEvery)
		require.NoError(t, from.SetNotes(t.Context(), []store.Note{note("m", "newer")}))
		s = done(t, leaveOpen(from), leaveOpen(to), day).(*Store)
		require.NoError(t, s.Close())
		require.Equal(t, "newer", noted(t, to)["m"], "it is another move, so notes are copied")
	})
}

// A store isn't moved into itself, whatever names it has.
func TestSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := pair()
		closeAfter(t, s)
		keep(t, s, mailOf("a", 1))
		_, err := Open(t.Context(), leaveOpen(s), leaveOpen(s), Options{Logger: quiet})
		require.ErrorIs(t, err, ErrSame)
		numbers(t, s, "a", 1)
		require.Empty(t, noted(t, s))
	})
}

// Without notes there is no guard, and mail moves all the same.
func TestNoNotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		keep(t, from, mailOf("a", 1))
		s := done(t, struct{ store.Store }{from}, struct{ store.Store }{to}, day).(*Store)
		closeAfter(t, s)
		<-s.Done()
		numbers(t, to, "a", 1)
		_, err := s.Notes(t.Context(), "", "", 1)
		require.ErrorIs(t, err, errNoNotes)
		require.ErrorIs(t, s.SetNotes(t.Context(), nil), errNoNotes)
	})
}
