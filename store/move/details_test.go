package move

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

const day = 24 * time.Hour

// pair makes two stores, in simulated time.
func pair() (from, to *memory.Store) {
	from = memory.New(memory.Options{})
	time.Sleep(time.Second)
	return from, memory.New(memory.Options{})
}

func keep(t *testing.T, s store.Store, mails ...store.Mail) {
	t.Helper()
	for _, mail := range mails {
		stored, err := s.Put(t.Context(), mail, store.Limits{})
		require.NoError(t, err)
		require.True(t, stored)
	}
}

func isCopy(t *testing.T, s store.Store, mail store.Mail) {
	t.Helper()
	stored, err := s.Put(t.Context(), mail, store.Limits{})
	require.NoError(t, err)
	require.False(t, stored)
}

func closeAfter(t *testing.T, s store.Store) { t.Cleanup(func() { require.NoError(t, s.Close()) }) }

// numbers requires that these letters are in a mailbox, and returns their
// entries.
func numbers(t *testing.T, s store.Store, to spec.ServerName, want ...int) []store.Entry {
	t.Helper()
	entries := all(t, s, to)
	require.Len(t, entries, len(want))
	for i, n := range want {
		require.Equal(t, mailOf(to, n).TransactionID, entries[i].TransactionID)
	}
	return entries
}

// A failing store refuses Puts while it is told to.
type failing struct {
	store.Store
	noter
	down atomic.Bool
}

func (f *failing) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	if f.down.Load() {
		return false, errFlaky
	}
	return f.Store.Put(ctx, mail, limits)
}

// While the new store takes nothing, the old one does, and its mail is moved
// when that is over.
func TestNewStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		keep(t, from, mailOf("a", 1))
		down := &failing{Store: to, noter: to}
		down.down.Store(true)
		s := done(t, from, down, day).(*Store)
		closeAfter(t, s)
		time.Sleep(time.Minute)
		keep(t, s, mailOf("a", 2))
		isCopy(t, s, mailOf("a", 1))
		_, err := s.Next(t.Context(), "a", 0, 10, 1<<20)
		require.ErrorIs(t, err, errFlaky)
		usage, err := s.Usage(t.Context(), "a")
		require.NoError(t, err)
		require.EqualValues(t, 2, usage.Entries)

		down.down.Store(false)
		numbers(t, s, "a", 1, 2) // at once, for a caller that asks
		keep(t, s, mailOf("a", 3))
		<-s.Done()
		numbers(t, to, "a", 1, 2, 3)
	})
}

// Mail that was fetched before the move isn't there again, until the old store has
// forgotten it, which then isn't asked any more.
func TestCopiesOfWhatWasFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		keep(t, from, mailOf("a", 1), mailOf("a", 2))
		_, err := from.Ack(t.Context(), "a", all(t, from, "a")[0].ID)
		require.NoError(t, err)
		s := done(t, from, to, day).(*Store)
		closeAfter(t, s)
		<-s.Done()
		time.Sleep(day - time.Minute)
		isCopy(t, s, mailOf("a", 1))
		isCopy(t, s, mailOf("a", 2))
		numbers(t, s, "a", 2)

		time.Sleep(2 * time.Minute)
		require.NoError(t, from.Close())
		keep(t, s, mailOf("a", 1))
		numbers(t, s, "a", 2, 1)
		usage, err := s.Usage(t.Context(), "")
		require.NoError(t, err)
		require.EqualValues(t, 2, usage.Entries)
	})
}

// An old store that fails when all is moved is in nobody's way.
func TestOldStoreFailsAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		broken := &failing{Store: from, noter: from}
		s := done(t, broken, to, day)
		closeAfter(t, s)
		<-s.(*Store).Done()
		broken.down.Store(true)
		keep(t, s, mailOf("a", 1))
		isCopy(t, s, mailOf("a", 1))
	})
}

// A Put that was given up may reach the old store when that is done with. Then
// the mail is there when the Put is repeated.
func TestLatePut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		s := done(t, from, to, day)
		closeAfter(t, s)
		<-s.(*Store).Done()
		keep(t, from, mailOf("a", 1))
		isCopy(t, s, mailOf("a", 1))
		numbers(t, to, "a", 1)
	})
}

// Mail of the private half moves like other mail, and is moved when the move is
// done. The halves' limits stay apart on the way.
func TestPrivateMailboxes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		ours, theirs := store.Private("outbox", "a"), store.Private("seen", "b")
		keep(t, from, mailOf(ours, 1), mailOf("a", 1), mailOf("a", 2), mailOf(theirs, 1))
		s := underWay(t, from, to, day).(detouring).Store
		one, two := store.Limits{StoreEntries: 3}, store.Limits{StoreEntries: 2}
		for _, c := range []struct {
			mail   store.Mail
			limits store.Limits
			full   bool
		}{{mailOf(ours, 2), two, true}, {mailOf("b", 1), two, true}, {mailOf(ours, 2), one, false}, {mailOf("b", 1), one, false}, {mailOf(ours, 3), one, true}} {
			_, err := s.Put(t.Context(), c.mail, c.limits)
			require.Equal(t, c.full, errors.Is(err, store.ErrFull), "%s: %v", c.mail.TransactionID, err)
		}
		for half, want := range map[spec.ServerName][]spec.ServerName{"": {"a", "b"}, store.PrivateHalf: {ours, theirs}} {
			names, err := s.Destinations(t.Context(), half, 10)
			require.NoError(t, err)
			require.Equal(t, want, names)
			usage, err := s.Usage(t.Context(), half)
			require.NoError(t, err)
			require.EqualValues(t, 3, usage.Entries)
		}
		s.start()
		closeAfter(t, s)
		<-s.Done()
		for _, half := range halves {
			usage, err := from.Usage(t.Context(), half)
			require.NoError(t, err)
			require.Zero(t, usage)
		}
		numbers(t, to, ours, 1, 2)
		numbers(t, to, theirs, 1)
		numbers(t, to, "a", 1, 2)
	})
}

// Mail may expire in the old store, in the new one or on its way.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		short, long := mailOf("a", 1), mailOf("a", 2)
		short.Lifetime, long.Lifetime = time.Minute, 3*time.Minute
		keep(t, from, short, long, mailOf("a", 3))
		down := &failing{Store: to, noter: to}
		down.down.Store(true)
		s := done(t, from, down, day)
		closeAfter(t, s)
		time.Sleep(2 * time.Minute)
		down.down.Store(false)
		numbers(t, s, "a", 2, 3)
		entries, err := to.Next(t.Context(), "a", 0, 1, 0)
		require.NoError(t, err)
		require.Equal(t, time.Minute, entries[0].Lifetime, "it goes on where it was in the old store")
		time.Sleep(2 * time.Minute)
		numbers(t, s, "a", 3)
		isCopy(t, s, short)
	})
}

// A waiting receiver is woken by mail that comes into the old store, and by mail
// that comes into the new one.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		s := underWay(t, from, to, day).(detouring).Store
		closeAfter(t, s)
		for to, into := range map[spec.ServerName]store.Store{"a": from, "b": to} {
			woken := make(chan error)
			go func() { woken <- s.Wait(t.Context(), to, 0) }()
			synctest.Wait()
			keep(t, into, mailOf(to, 1))
			require.NoError(t, <-woken)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, s.Wait(ctx, "c", 0), context.DeadlineExceeded)
	})
}

// Puts that come faster than they are moved are held until that has caught up,
// or for a second.
func TestHeldPuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		keep(t, from, mailOf("a", 1))
		s := underWay(t, from, to, day).(detouring).Store
		closeAfter(t, s)
		end := s.holds.begin("a")
		begun := time.Now()
		keep(t, s, mailOf("a", 2), mailOf("b", 1))
		require.Equal(t, holdTime, time.Since(begun))
		time.AfterFunc(holdTime/4, func() {
			numbers(t, s, "a", 1, 2)
			end()
		})
		begun = time.Now()
		keep(t, s, mailOf("a", 3))
		require.Equal(t, holdTime/4, time.Since(begun))
		numbers(t, to, "a", 1, 2, 3) // it was put there
		ctx, cancel := context.WithCancel(t.Context())
		keep(t, from, mailOf("a", 4))
		defer s.holds.begin("a")()
		time.AfterFunc(holdTime/4, cancel)
		_, err := s.Put(ctx, mailOf("a", 5), store.Limits{})
		require.ErrorIs(t, err, context.Canceled)
	})
}

// The move doesn't end while mail is on its way into the old store, and mail that
// comes behind that goes there, too.
func TestDetoursEnd(t *testing.T) {
	var d detours
	require.False(t, d.begin("a", false))
	require.True(t, d.begin("a", true))
	require.True(t, d.begin("a", false))
	require.False(t, d.begin("b", false))
	begun, idle := d.count()
	require.False(t, idle)
	require.False(t, d.finish(begun))
	d.end("a")
	require.True(t, d.any("a"))
	d.end("a")
	require.False(t, d.any("a"))
	require.True(t, d.begin("a", true))
	d.end("a")
	require.False(t, d.finish(begun), "there was another one meanwhile")
	begun, idle = d.count()
	require.True(t, idle)
	require.True(t, d.finish(begun))
	require.False(t, d.begin("a", true))
}

// Both stores are full together.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		keep(t, to, mailOf("a", 1), mailOf("b", 1))
		keep(t, from, mailOf("a", 2), mailOf("c", 1))
		s := underWay(t, from, to, day).(detouring).Store
		closeAfter(t, s)
		put := func(mail store.Mail, limits store.Limits) error {
			_, err := s.Put(t.Context(), mail, limits)
			return err
		}
		size := mailOf("a", 1)
		require.ErrorIs(t, put(mailOf("a", 3), store.Limits{Entries: 2}), store.ErrFull)
		require.ErrorIs(t, put(mailOf("a", 3), store.Limits{Bytes: 2 * size.Size()}), store.ErrFull)
		for _, to := range []spec.ServerName{"a", "b", "c", "d"} {
			require.ErrorIs(t, put(mailOf(to, 3), store.Limits{StoreEntries: 4}), store.ErrFull, to)
			require.ErrorIs(t, put(mailOf(to, 3), store.Limits{StoreBytes: 4 * size.Size()}), store.ErrFull, to)
		}
		require.NoError(t, put(mailOf("a", 2), store.Limits{Entries: 1, StoreEntries: 1}), "a copy")
		require.NoError(t, put(mailOf("b", 1), store.Limits{Entries: 1, StoreEntries: 1}), "a copy")
		require.NoError(t, put(mailOf("a", 3), store.Limits{Entries: 3, StoreEntries: 5}))
		require.NoError(t, put(mailOf("b", 3), store.Limits{Entries: 2, StoreEntries: 6}))
		numbers(t, s, "a", 1, 2, 3)
		numbers(t, s, "b", 1, 3)
	})
}

// Damaged mail stays behind, and is in nobody's way.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	from := openSQLite(t, dir, "from", day)
	keep(t, from, mailOf("a", 1), mailOf("a", 2), mailOf("a", 3), mailOf("b", 1))
	bad := []int64{all(t, from, "a")[1].ID, all(t, from, "b")[0].ID}
	require.NoError(t, from.Close())
	for _, id := range bad {
		damage(t, filepath.Join(dir, "from"), id)
	}
	s := done(t, openSQLite(t, dir, "from", day), openSQLite(t, dir, "to", day), day).(*Store)
	closeAfter(t, s)
	<-s.Done()
	numbers(t, s, "a", 1, 3)
	numbers(t, s, "b")
	usage, err := s.Usage(t.Context(), "")
	require.NoError(t, err)
	require.EqualValues(t, 2, usage.Entries)
	require.EqualValues(t, 2, usage.SetAside)
}

// IDs of the old store acknowledge nothing.
func TestOldIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		for n := range 100 {
			keep(t, from, mailOf("a", n))
		}
		fetched := all(t, from, "a")
		s := done(t, from, to, day).(*Store)
		closeAfter(t, s)
		<-s.Done()
		for _, e := range fetched {
			removed, err := s.Ack(t.Context(), "a", e.ID)
			require.NoError(t, err)
			require.Zero(t, removed)
		}
		require.Len(t, all(t, s, "a"), 100)
	})
}

// Of two Puts of the same mail at once one is told that it is a copy, though the
// old store gets empty between their looks at it.
func TestCopiesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		keep(t, from, mailOf("a", 1))
		var slow atomic.Bool
		looking := &faulty{from, func(_ context.Context, call string, do func() error) error {
			err := do()
			if call == "Usage" && slow.CompareAndSwap(true, false) {
				time.Sleep(time.Second)
			}
			return err
		}}
		s := underWay(t, looking, to, day).(detouring).Store
		closeAfter(t, s)
		slow.Store(true)
		results := make(chan bool, 2)
		put := func() {
			stored, err := s.Put(t.Context(), mailOf("a", 2), store.Limits{})
			assert.NoError(t, err)
			results <- stored
		}
		go put()
		synctest.Wait()
		_, err := s.moveChunk(t.Context(), "a")
		require.NoError(t, err)
		go put()
		require.NotEqual(t, <-results, <-results)
		numbers(t, s, "a", 1, 2)
	})
}
