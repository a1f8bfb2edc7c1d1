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
		s.writer.options.shard = []int{0, 0, 1, 15}[i]
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
