package move

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// A mailbox that is filled by many, faster than a slow store takes it, gets
// moved all the same.
func TestHotMailbox(t *testing.T) {
	dir := t.TempDir()
	from, to := openSQLite(t, dir, "from", day), openSQLite(t, dir, "to", day)
	for n := range 50 {
		keep(t, from, mailOf("a", n))
	}
	s, err := Open(t.Context(), from, struct{ store.Store }{to}, Options{Logger: quiet}) // without PutAll
	require.NoError(t, err)
	closeAfter(t, s)
	var count atomic.Int64
	var all sync.WaitGroup
	count.Store(50)
	senders := 64
	if testing.Short() {
		senders = 16
	}
	for range senders {
		all.Go(func() {
			for !isDone(s) {
				if _, err := s.Put(t.Context(), mailOf("a", int(count.Add(1))), store.Limits{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d letters", count.Load())
}

// A slow store takes one letter after the other, and a while for each.
type slow struct {
	store.Store
	turn chan struct{}
}

func (s slow) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	time.Sleep(100 * time.Millisecond)
	return s.Store.Put(ctx, mail, limits)
}

// So does one that is filled by more senders than the new store takes letters a
// second, since they are held for longer and longer.
func TestHotMailboxOfSlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		for n := range 10 {
			keep(t, from, mailOf("a", n))
		}
		s, err := Open(t.Context(), from, slow{to, make(chan struct{}, 1)}, Options{Logger: quiet})
		require.NoError(t, err)
		closeAfter(t, s)
		var count atomic.Int64
		count.Store(10)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour) // two and a half minutes as a rule, and with bad luck twenty
		defer cancel()
		var senders sync.WaitGroup
		for range 64 {
			senders.Go(func() {
				for !isDone(s) && ctx.Err() == nil {
					_, _ = s.Put(ctx, mailOf("a", int(count.Add(1))), store.Limits{})
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		senders.Wait()
		require.True(t, isDone(s))
	})
}

func isDone(s *Store) bool {
	select {
	case <-s.Done():
		return true
	default:
		return false
	}
}

// A stuck store takes no mail of one destination for a while.
type stuck struct {
	*memory.Store
	over chan struct{}
}

func (s stuck) PutAll(ctx context.Context, mails []store.Mail) error {
	if mails[0].Destination == "a" {
		select {
		case <-s.over:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.Store.PutAll(ctx, mails)
}

// A mailbox that takes long holds up none, however many come behind it.
func TestLongMailbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		keep(t, from, mailOf("a", 1))
		for n := range 3 * roundPage {
			keep(t, from, mailOf(spec.ServerName(fmt.Sprint("b", n)), 1))
		}
		slow := stuck{to, make(chan struct{})}
		s := done(t, from, slow, day).(*Store)
		closeAfter(t, s)
		time.Sleep(time.Minute)
		left, err := from.Destinations(t.Context(), "", 10)
		require.NoError(t, err)
		require.Equal(t, []spec.ServerName{"a"}, left)
		close(slow.over)
		<-s.Done()
		numbers(t, to, "a", 1)
	})
}

// While nothing can be moved it is tried ever less often.
func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := pair()
		for n := range 3 * roundPage {
			keep(t, from, mailOf(spec.ServerName(fmt.Sprint("b", n)), 1))
		}
		down, tries := &failing{Store: to, noter: to}, atomic.Int64{}
		down.down.Store(true)
		counting := &faulty{from, func(_ context.Context, call string, do func() error) error {
			if call == "Destinations" {
				tries.Add(1)
			}
			return do()
		}}
		s := done(t, counting, down, day).(*Store)
		closeAfter(t, s)
		time.Sleep(time.Hour)
		require.Less(t, tries.Load(), int64(200))
		down.down.Store(false)
		time.Sleep(2 * mostRetry)
		<-s.Done()
		usage, err := to.Usage(t.Context(), "")
		require.NoError(t, err)
		require.EqualValues(t, 3*roundPage, usage.Entries)
	})
}
