package move

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
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
		require.Equal(t, want, noted(t, s), "removed notes stay removed")
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

// The way back would lose the mail that the first store remembers as moved, so it is
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

// Mail that is moved after the last mark, before the next one is due, is remembered
// for longer than the retention after that mark. A machine's clock says nothing
// about it, and neither does time for which the store was closed.
func TestWayBackAfterLastMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		defer func() { require.NoError(t, from.Close()) }()
		defer func() { require.NoError(t, to.Close()) }()
		keep(t, from, mailOf("a", 1))
		s := newStore(from, to, Options{Retention: day, Logger: quiet}) // it has no mover, and doesn't get to its end
		require.NoError(t, s.begin(t.Context()))
		time.Sleep(markEvery - time.Minute)
		_, err := s.moveChunk(t.Context(), "a")
		require.NoError(t, err)

		waited := time.Duration(0)
		for {
			known, err := isKnown(t.Context(), from, mailOf("a", 1))
			require.NoError(t, err)
			back, err := Open(t.Context(), leaveOpen(to), leaveOpen(from), Options{Retention: day, Logger: quiet})
			if err == nil {
				require.False(t, known, "after %v it would be taken for a copy", waited)
				<-back.Done()
				require.NoError(t, back.Close())
				break
			}
			require.ErrorIs(t, err, ErrTooSoon)
			require.Less(t, waited, day+2*markEvery)
			time.Sleep(time.Minute)
			waited += time.Minute
		}
		numbers(t, from, "a", 1)
	})
}

// Stores without a retention take nothing for copies, so mail may come back at
// once.
func TestWayBackWithoutRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := memory.New(memory.Options{Retention: -1}), memory.New(memory.Options{Retention: -1})
		defer func() { require.NoError(t, from.Close()) }()
		defer func() { require.NoError(t, to.Close()) }()
		keep(t, from, mailOf("a", 1))
		for range 2 {
			s, err := Open(t.Context(), leaveOpen(from), leaveOpen(to), Options{Retention: -1, Logger: quiet})
			require.NoError(t, err)
			<-s.Done()
			require.NoError(t, s.Close())
			numbers(t, to, "a", 1)
			from, to = to, from
		}
	})
}

// A store that tells its time.
type timed struct {
	unclosed
	time time.Duration
}

func (s timed) StoreTime(context.Context) (time.Duration, error) { return s.time, nil }

// How long a store remembers is counted by its own clock, not the machine's.
func TestWayBackByTheStoresClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		defer func() { require.NoError(t, from.Close()) }()
		defer func() { require.NoError(t, to.Close()) }()
		keep(t, from, mailOf("a", 1))
		s := done(t, timed{leaveOpen(from), time.Hour}, leaveOpen(to), day).(*Store)
		<-s.Done()
		require.NoError(t, s.Close())
		time.Sleep(30 * day)
		for _, clock := range []time.Duration{0, time.Hour, time.Hour + day + 2*markEvery - time.Millisecond} {
			_, err := Open(t.Context(), leaveOpen(to), timed{leaveOpen(from), clock}, Options{Logger: quiet})
			require.ErrorIs(t, err, ErrTooSoon)
		}
		back := done(t, leaveOpen(to), timed{leaveOpen(from), time.Hour + day + 2*markEvery}, day).(*Store)
		<-back.Done()
		require.NoError(t, back.Close())
		numbers(t, from, "a", 1)
	})
}

// A note with a time of its store's clock is as old in the new store, whose clock stands elsewhere.
func TestNotesKeepTheirAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		defer func() { require.NoError(t, from.Close()) }()
		defer func() { require.NoError(t, to.Close()) }()
		require.NoError(t, from.SetNotes(t.Context(), []store.Note{note("relay/claim/a", `{"asked":600}`), note("x", `{"asked":600}`)}))
		s := done(t, timed{leaveOpen(from), time.Hour}, timed{leaveOpen(to), 3 * time.Hour}, day).(*Store)
		require.Equal(t, map[string]string{"relay/claim/a": `{"asked":7800}`, "x": `{"asked":600}`}, noted(t, s))
		require.NoError(t, s.Close())
	})
}

// A store isn't moved into itself, under any names.
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
