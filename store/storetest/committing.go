package storetest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var committingTests = []test{{"tells of commits", testCommits}}

func testCommits(r *rig) {
	committing := r.Store.(store.Committing)
	var calls, bytes int64
	var told [2]int
	commits := make(chan store.Commit, 1000)
	stop := committing.OnCommit(func(c store.Commit) { told[0]++; commits <- c })
	stopOther := committing.OnCommit(func(store.Commit) { told[1]++ })
	const n = 20
	r.together(n, func(i int) error {
		_, err := r.Store.Put(r.Context(), letter(here, i), store.Limits{})
		return err
	})
	if batches, ok := r.Store.(store.Batches); ok {
		require.NoError(r, batches.PutAll(r.Context(), letters(there, n)))
	}
	stored := r.usage("").Bytes
	for calls < n || bytes < stored { // the last is told after its callers
		var c store.Commit
		select {
		case c = <-commits:
		case <-time.After(patience):
			require.Fail(r, "the store tells of too few calls")
		}
		require.Positive(r, c.Calls)
		require.GreaterOrEqual(r, c.Took, time.Duration(0))
		calls, bytes = calls+int64(c.Calls), bytes+c.Bytes
	}
	require.Equal(r, stored, bytes)
	stop()
	stop()
	stopOther()
	before := told
	require.Positive(r, before[0])
	require.Positive(r, before[1])
	r.keep(letter(here, n))
	require.Equal(r, before, told)
}
