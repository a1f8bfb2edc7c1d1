//go:build unix

package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// The limit of the whole store is exact, though processes don't wait for each
// other until they are close to it.
func TestTotalAtOnce(t *testing.T) {
	const room, tooMany, putters = spareEntries + 700, 300, 64
	options := fresh(t)
	var stores []*Store
	for i := range 4 {
		s := open(t, options)
		s.writer.options.pickShard = func() int { return []int{0, 0, 1, 15}[i] }
		stores = append(stores, s)
		defer func() { require.NoError(t, s.Close()) }()
	}
	fast := stores[0].writer
	_, err := stores[0].Put(t.Context(), mail(1<<32), store.Limits{StoreEntries: room})
	require.NoError(t, err)
	require.False(t, fast.exact, "the store isn't tight yet")

	var stored, refused atomic.Int64
	var all sync.WaitGroup
	errs := make([]error, putters)
	for i := range putters {
		all.Go(func() {
			for n := i; n < room+tooMany-1 && errs[i] == nil; n += putters {
				m := mail(n)
				m.Destination = spec.ServerName(fmt.Sprint("d", n%20))
				isNew, err := stores[n%len(stores)].Put(context.Background(), m, store.Limits{StoreEntries: room})
				switch {
				case errors.Is(err, store.ErrFull):
					refused.Add(1)
				case isNew:
					stored.Add(1)
				default:
					errs[i] = fmt.Errorf("put %d: %v, %w", n, isNew, err)
				}
			}
		})
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	require.EqualValues(t, room-1, stored.Load())
	require.EqualValues(t, tooMany, refused.Load())
	usage, err := stores[0].Usage(t.Context(), "")
	require.NoError(t, err)
	require.EqualValues(t, room, usage.Entries)
	require.True(t, fast.exact, "now it is")
}

// Processes that learn at the same moment that the store is nearly full don't
// fill it too much.
func TestTightAtOnce(t *testing.T) {
	const each, processes = 10, 4
	options := fresh(t)
	stores := make([]*Store, processes)
	for i := range stores {
		stores[i] = open(t, options)
		defer func() { require.NoError(t, stores[i].Close()) }()
	}
	for round := range 10 {
		room := int64((round + 1) * 2 * each)
		errs := make([]error, processes)
		var all sync.WaitGroup
		for i, s := range stores {
			var works []work
			for n := range each {
				m := mail(1000*round + 100*i + n)
				m.Destination = spec.ServerName(fmt.Sprint("d", i)) // no other lock keeps them apart
				works = append(works, newPut(m, store.Limits{StoreEntries: room}))
			}
			s.writer.exact = false // nobody else uses the writer
			all.Go(func() { errs[i] = s.writer.transact(works, false) })
		}
		all.Wait()
		require.NoError(t, errors.Join(errs...))
		usage, err := stores[0].Usage(t.Context(), "")
		require.NoError(t, err)
		require.Equal(t, room, usage.Entries)
	}
}

// While there is much room, only those wait for each other that have the same
// shard: so there are never more batches under way than was reckoned with.
func TestShards(t *testing.T) {
	options := fresh(t)
	limits := store.Limits{StoreEntries: 1 << 40}
	stores := make([]*Store, 3)
	for i := range stores {
		stores[i] = open(t, options)
		stores[i].writer.options.pickShard = func() int { return min(i, 1) } // the second and the third have the same
		defer func() { require.NoError(t, stores[i].Close()) }()
	}
	put := func(i int, more ...work) (done chan error) {
		m := mail(i)
		m.Destination = spec.ServerName(fmt.Sprint("d", i))
		done = make(chan error, 1)
		go func() { done <- stores[i].writer.transact(append(more, newPut(m, limits)), false) }()
		return done
	}
	hold := &holding{begun: make(chan struct{}), end: make(chan struct{})}
	second := put(1, hold)
	<-hold.begun
	require.NoError(t, <-put(0))
	third := put(2)
	locked := func() bool {
		return execute(t, options, `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 1
	}
	for len(third) == 0 && !locked() {
	}
	assert.Empty(t, third, "two batches that count in the same shard are under way")
	close(hold.end)
	require.NoError(t, <-second)
	require.NoError(t, <-third)
}
