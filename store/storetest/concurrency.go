package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var concurrencyTests = []test{
	{"a reader that follows sees everything once", testFollow},
	{"a reader that acknowledges sees everything once", testFollowAndAck},
	{"one after the other", testOneAfterTheOther},
	{"many destinations", testManyDestinations},
}

// A follower reads one destination as a receiver does: it goes on behind the
// last entry that it saw, so an entry that shows up later with a smaller ID
// is lost to it.
type follower struct {
	store       store.Store
	destination spec.ServerName

	// acks makes it acknowledge mail that it has seen and read from the start.
	acks bool

	// polls makes it look again and again instead of waiting, so that it looks
	// at every moment of the Puts that go on; looks counts that.
	polls bool
	looks atomic.Int64

	seen    []store.Entry
	removed int
}

// read reads until it has seen enough.
func (f *follower) read(ctx context.Context, enough func(seen []store.Entry) bool) error {
	last := int64(0)
	for !enough(f.seen) {
		after := last
		if f.acks {
			after = 0
		}
		entries, err := f.next(ctx, after, 1+len(f.seen)%7)
		if err != nil {
			return fmt.Errorf("behind the %d entries that it has seen: %w", len(f.seen), err)
		}
		for _, entry := range entries {
			if entry.ID <= last {
				return fmt.Errorf("entry %d shows up after %d", entry.ID, last)
			}
			last = entry.ID
		}
		f.seen = append(f.seen, entries...)
		if err := f.ack(ctx, last); err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) next(ctx context.Context, after int64, n int) ([]store.Entry, error) {
	if !f.polls {
		return await(ctx, f.store, f.destination, after, n)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		f.looks.Add(1)
		entries, err := f.store.Next(ctx, f.destination, after, n, plenty)
		if !errors.Is(err, store.ErrEmpty) {
			return entries, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		runtime.Gosched()
	}
}

// letLook returns when the follower has looked n times more, but doesn't wait
// for long: the follower may have given up.
func (f *follower) letLook(n int) {
	enough, end := f.looks.Load()+int64(n), time.Now().Add(20*time.Millisecond)
	for f.looks.Load() < enough && time.Now().Before(end) {
		runtime.Gosched()
	}
}

// count is enough when it has seen n entries.
func count(n int) func([]store.Entry) bool {
	return func(seen []store.Entry) bool { return len(seen) >= n }
}

func (f *follower) ack(ctx context.Context, id int64) error {
	if !f.acks {
		return nil
	}
	removed, err := f.store.Ack(ctx, f.destination, id)
	f.removed += removed
	return err
}

// sawEach says whether the follower has seen each mail exactly once, and those
// of each writer in the order in which they were put.
func (f *follower) sawEach(writers ...[]store.Mail) error {
	all := slices.Concat(writers...)
	if len(f.seen) != len(all) {
		return fmt.Errorf("there should be %d entries, there are %d", len(all), len(f.seen))
	}
	place := make(map[gomatrixserverlib.TransactionID]int)
	for i, entry := range f.seen {
		if at, twice := place[entry.TransactionID]; twice {
			return fmt.Errorf("%q is entry %d and also %d", entry.TransactionID, f.seen[at].ID, entry.ID)
		}
		place[entry.TransactionID] = i
	}
	for _, mails := range writers {
		last := -1
		for _, mail := range mails {
			at, found := place[mail.TransactionID]
			if !found || at < last {
				return fmt.Errorf("%q is not there, or before one that was put earlier", mail.TransactionID)
			}
			last = at
		}
	}
	return nil
}

func testFollow(r *rig)       { follow(r, false, r.Store, r.Store) }
func testFollowAndAck(r *rig) { follow(r, true, r.Store, r.Store) }

// follow puts mail for one destination from many goroutines, through all
// writers, while reader follows. A fast store does it several times, since its
// faults show for moments only.
func follow(r *rig, acks bool, reader store.Store, writers ...store.Store) {
	end := time.Now().Add(time.Duration(fewer(400)) * time.Millisecond)
	for n := 0; n == 0 || time.Now().Before(end); n++ {
		to := spec.ServerName(fmt.Sprint("follow", n, ".example"))
		followOnce(r, &follower{store: reader, destination: to, acks: acks, polls: true}, writers)
	}
}

func followOnce(r *rig, f *follower, writers []store.Store) {
	const putters = 8
	each := fewer(60)
	var mails [putters][]store.Mail
	for i := range mails {
		mails[i] = letters(f.destination, each*(i+1))[each*i:]
	}
	reading := r.launch(1, func(int) error { return f.read(r.Context(), count(putters*each)) })
	r.together(putters, func(i int) error {
		for n := range mails[i] {
			if err := putAll(r.Context(), writers[i%len(writers)], mails[i][n:n+1]); err != nil {
				return err
			}
			f.letLook(rand.IntN(4))
		}
		return nil
	})
	reading()
	require.NoError(r, f.sawEach(mails[:]...))
	if f.acks {
		require.Equal(r, putters*each, f.removed)
		r.empty(f.destination)
		require.Zero(r, r.usage(f.destination))
	}
}

// putAll puts mails that are new, one after the other.
func putAll(ctx context.Context, s store.Store, mails []store.Mail) error {
	for _, mail := range mails {
		stored, err := s.Put(ctx, mail, store.Limits{})
		if err != nil {
			return err
		}
		if !stored {
			return fmt.Errorf("new mail %q was taken for a copy", mail.TransactionID)
		}
	}
	return nil
}

func testOneAfterTheOther(r *rig) { oneAfterTheOther(r, r.Store) }

// oneAfterTheOther puts mail from goroutines, and through stores, that take
// turns. The order of arrival is then known.
func oneAfterTheOther(r *rig, stores ...store.Store) {
	var turn sync.Mutex
	var mails []store.Mail
	r.together(8, func(i int) error {
		for range fewer(20) {
			turn.Lock()
			mail := letter(here, len(mails))
			mails = append(mails, mail)
			_, err := stores[i%len(stores)].Put(r.Context(), mail, store.Limits{})
			turn.Unlock()
			if err != nil {
				return err
			}
		}
		return nil
	})
	r.holds(here, mails...)
}

// Mailboxes don't disturb each other, however many are busy.
func testManyDestinations(r *rig) {
	const destinations = 16
	each := fewer(20)
	r.together(2*destinations, func(i int) error {
		destination := spec.ServerName(fmt.Sprint("many", i/2, ".example"))
		mails := letters(destination, each)
		if i%2 == 0 {
			return putAll(r.Context(), r.Store, mails)
		}
		f := &follower{store: r.Store, destination: destination, acks: i%4 == 1}
		if err := f.read(r.Context(), count(each)); err != nil {
			return err
		}
		return f.sawEach(mails)
	})
	require.EqualValues(r, destinations/2*each, r.usage("").Entries)
	require.Len(r, r.destinations(100), destinations/2)
}
