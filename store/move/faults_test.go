package move

import (
	"context"
	"errors"
	"fmt"
	"sync"
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

// A faulty store does a test's bidding around each of its calls.
type faulty struct {
	*memory.Store
	around func(ctx context.Context, call string, do func() error) error
}

func (f *faulty) Put(ctx context.Context, mail store.Mail, limits store.Limits) (stored bool, err error) {
	err = f.around(ctx, "Put", func() error { stored, err = f.Store.Put(ctx, mail, limits); return err })
	return stored && err == nil, err
}

func (f *faulty) PutAll(ctx context.Context, mails []store.Mail) error {
	return f.around(ctx, "PutAll", func() error { return f.Store.PutAll(ctx, mails) })
}

func (f *faulty) Next(ctx context.Context, to spec.ServerName, after int64, maxEntries int, maxBytes int64) (page []store.Entry, err error) {
	err = f.around(ctx, "Next", func() error { page, err = f.Store.Next(ctx, to, after, maxEntries, maxBytes); return err })
	return page, err
}

func (f *faulty) Ack(ctx context.Context, to spec.ServerName, id int64) (removed int, err error) {
	err = f.around(ctx, "Ack", func() error { removed, err = f.Store.Ack(ctx, to, id); return err })
	return removed, err
}

func (f *faulty) Wait(ctx context.Context, to spec.ServerName, after int64) error {
	return f.around(ctx, "Wait", func() error { return f.Store.Wait(ctx, to, after) })
}

func (f *faulty) Destinations(ctx context.Context, after spec.ServerName, limit int) (names []spec.ServerName, err error) {
	err = f.around(ctx, "Destinations", func() error { names, err = f.Store.Destinations(ctx, after, limit); return err })
	return names, err
}

func (f *faulty) Usage(ctx context.Context, to spec.ServerName) (usage store.Usage, err error) {
	err = f.around(ctx, "Usage", func() error { usage, err = f.Store.Usage(ctx, to); return err })
	return usage, err
}

func (f *faulty) SetNotes(ctx context.Context, changes []store.Note) error {
	return f.around(ctx, "SetNotes", func() error { return f.Store.SetNotes(ctx, changes) })
}

func (f *faulty) Notes(ctx context.Context, prefix, after string, limit int) (page []store.Note, err error) {
	err = f.around(ctx, "Notes", func() error { page, err = f.Store.Notes(ctx, prefix, after, limit); return err })
	return page, err
}

var faultyCalls = []string{"Put", "PutAll", "Next", "Ack", "Wait", "Destinations", "Usage", "SetNotes", "Notes"}

// never names the calls that a move doesn't make: it puts no batches into the old store.
func never(call string, side int) bool { return call == "PutAll" && side == 0 }

// TestEachFault lets each call to either store fail once, before or after it has
// taken effect, and requires that everything arrives all the same.
func TestEachFault(t *testing.T) {
	for _, call := range faultyCalls {
		for side := range 2 {
			for _, late := range []bool{false, true} {
				t.Run(fmt.Sprint(call, side, late), func(t *testing.T) {
					for nth := 1; ; nth++ {
						happened := false
						synctest.Test(t, func(t *testing.T) { happened = moveWithFault(t, side, call, nth, late) })
						if !happened {
							t.Logf("%d calls", nth-1)
							require.Equal(t, never(call, side), nth == 1)
							return
						}
					}
				})
			}
		}
	}
}

// moveWithFault moves while it puts and reads. The fault is the nth of its kind.
func moveWithFault(t *testing.T, side int, call string, nth int, late bool) (happened bool) {
	var left, done atomic.Int64
	left.Store(int64(nth))
	fault := func(ctx context.Context, of string, do func() error) error {
		if of != call {
			return takingTime(ctx, of, do)
		}
		if left.Add(-1) != 0 {
			return takingTime(ctx, of, do)
		}
		done.Store(1)
		if late {
			_ = do() // its outcome is lost
		}
		return errFlaky
	}
	from, to := pair()
	keep(t, from, mailOf("a", 1), mailOf("a", 2), mailOf("a", 3), mailOf("b", 1))
	_, err := from.Ack(t.Context(), "a", all(t, from, "a")[0].ID)
	require.NoError(t, err)
	stores := [2]*faulty{{from, takingTime}, {to, takingTime}}
	stores[side].around = fault

	var s *Store
	again(t, func() (err error) {
		s, err = Open(t.Context(), stores[0], stores[1], Options{Logger: quiet})
		return err
	})
	closeAfter(t, s)
	woken := make(chan struct{})
	go func() {
		defer close(woken)
		again(t, func() error { return s.Wait(t.Context(), "d", 0) }) // while there is none
	}()
	synctest.Wait()
	for _, mail := range []store.Mail{mailOf("a", 4), mailOf("a", 1), mailOf("c", 1), mailOf("b", 1), mailOf("a", 5), mailOf("d", 1)} {
		again(t, func() error {
			_, err := s.Put(t.Context(), mail, store.Limits{Entries: 10, StoreBytes: 1 << 20})
			return err
		})
	}
	<-woken
	again(t, func() error { _, err := s.Destinations(t.Context(), "", 10); return err })
	for name, want := range map[spec.ServerName][]int{"a": {2, 3, 4, 5}, "b": {1}, "c": {1}, "d": {1}} {
		var got []store.Entry
		for len(got) < len(want) {
			again(t, func() error { return s.Wait(t.Context(), name, 0) })
			var page []store.Entry
			again(t, func() (err error) { page, err = s.Next(t.Context(), name, 0, 3, 1<<20); return err })
			got = append(got, page...)
			again(t, func() error { _, err := s.Ack(t.Context(), name, page[len(page)-1].ID); return err })
		}
		for i, n := range want {
			require.Equal(t, mailOf(name, n).TransactionID, got[i].TransactionID)
		}
		require.Len(t, got, len(want))
	}
	<-s.Done()
	left.Store(0) // a failure to recognise a copy now would be allowed
	for _, mail := range []store.Mail{mailOf("a", 1), mailOf("a", 2), mailOf("a", 5), mailOf("b", 1), mailOf("c", 1)} {
		isCopy(t, s, mail)
	}
	usage, err := s.Usage(t.Context(), "")
	require.NoError(t, err)
	require.Zero(t, usage)
	return done.Load() > 0
}

// takingTime lets others in between.
func takingTime(_ context.Context, _ string, do func() error) error {
	time.Sleep(time.Millisecond)
	return do()
}

// again repeats calls that fail on purpose.
func again(t *testing.T, do func() error) {
	t.Helper()
	for range 5 {
		err := do()
		if err == nil {
			return
		}
		require.ErrorIs(t, err, errFlaky)
		time.Sleep(time.Second)
	}
	t.Fatal("it goes on failing")
}

// TestEachHang lets each kind of call to either store answer nothing until its
// context ends, from the moment that the store is open, and requires that no
// call outlasts its own context, nor Close, and that all is well afterwards.
func TestEachHang(t *testing.T) {
	for _, call := range faultyCalls {
		for side := range 2 {
			t.Run(fmt.Sprint(call, side), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { moveWithHang(t, side, call) })
			})
		}
	}
}

func moveWithHang(t *testing.T, side int, call string) {
	var hangs, hung atomic.Bool
	hang := func(ctx context.Context, of string, do func() error) error {
		if of == call && hangs.Load() {
			hung.Store(true)
			<-ctx.Done()
			return ctx.Err()
		}
		return takingTime(ctx, of, do)
	}
	from, to := pair()
	defer func() { require.NoError(t, errors.Join(from.Close(), to.Close())) }()
	keep(t, from, mailOf("a", 1), mailOf("a", 2), mailOf("b", 1))
	stores := [2]store.Store{unclosedFaulty{&faulty{from, takingTime}}, unclosedFaulty{&faulty{to, takingTime}}}
	stores[side].(unclosedFaulty).around = hang
	s := done(t, stores[0], stores[1], day).(*Store)
	hangs.Store(true)
	const patience = time.Hour
	var calls sync.WaitGroup
	for i := range 40 {
		name := spec.ServerName("a")
		if i%2 == 0 {
			name = "c"
		}
		calls.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			begun := time.Now()
			_, _ = s.Notes(ctx, "", "", 10)
			_ = s.SetNotes(ctx, []store.Note{note("k", "v")})
			_, _ = s.Put(ctx, mailOf(name, 3), store.Limits{Entries: 10, StoreBytes: 1 << 20})
			_, _ = s.Next(ctx, name, 0, 10, 1<<20)
			_, _ = s.Ack(ctx, name, 1) // of nothing
			_ = s.Wait(ctx, name, 0)
			_, _ = s.Usage(ctx, name)
			_, _ = s.Destinations(ctx, "", 10)
			assert.LessOrEqual(t, time.Since(begun), patience+time.Second)
		})
	}
	calls.Wait()
	onlyAtOpen := call == "Notes" && side == 0
	require.Equal(t, !never(call, side) && !onlyAtOpen, hung.Load())
	closed := time.Now()
	require.NoError(t, errors.Join(s.Close(), s.Close()))
	require.Less(t, time.Since(closed), time.Second)

	s = done(t, leaveOpen(from), leaveOpen(to), day).(*Store)
	defer func() { require.NoError(t, s.Close()) }()
	again(t, func() error { _, err := s.Put(t.Context(), mailOf("a", 3), store.Limits{}); return err })
	<-s.Done()
	numbers(t, s, "a", 1, 2, 3)
	numbers(t, s, "b", 1)
}

type unclosedFaulty struct{ *faulty }

func (unclosedFaulty) Close() error { return nil }
