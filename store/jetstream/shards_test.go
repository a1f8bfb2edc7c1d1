package jetstream

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// Processes that share a stream count in different shards before long.
func TestProcessesUseDifferentShards(t *testing.T) {
	t.Parallel()
	srv := startServer(t, nil)
	var stores [3]*Store
	for i := range stores {
		stores[i] = open(t, testOptions(srv))
		defer func() { require.NoError(t, stores[i].Close()) }()
	}
	n := 0
	require.Eventually(t, func() bool {
		for i, s := range stores {
			mail := testMail(fmt.Sprint(n))
			mail.Destination = spec.ServerName(fmt.Sprint(i))
			put(t, s, mail)
			n++
		}
		used := make(map[int]bool)
		for _, s := range stores {
			require.NoError(t, s.writer.do(t.Context(), func(b *batch) error { used[b.shard] = true; return nil }, 0))
		}
		return len(used) == len(stores)
	}, time.Minute, time.Millisecond)
}

// Of a batch and its repetition only one is stored, also if others have written
// meanwhile: a process keeps its shard until it knows.
func TestUnsettledKeepsItsShard(t *testing.T) {
	t.Parallel()
	s := openTest(t, nil)
	put(t, s, testMail("first"))
	w := &writer{cache: s.cache, subjects: s.cache.subjects}
	w.chooseShard()
	require.True(t, w.chosen)
	before := w.shard
	w.unsettled, w.wrote = true, math.MaxUint64
	for range 100 {
		w.chooseShard()
		require.Equal(t, before, w.shard)
	}
	w.unsettled = false
	require.Eventually(t, func() bool {
		w.wrote = math.MaxUint64
		w.chooseShard()
		return w.shard != before
	}, time.Minute, time.Millisecond)
}

// A shard that can't be read is counted anew by whoever notices, whichever it is.
func TestBadShard(t *testing.T) {
	t.Parallel()
	for i := range shards {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			s := openTest(t, nil)
			put(t, s, testMail("first"))
			put(t, s, testMail("second"))
			damagePage(t, s, s.cache.subjects.shard(i))
			usage, err := s.Usage(t.Context(), "")
			require.NoError(t, err)
			require.EqualValues(t, 2, usage.Entries)
			_, err = s.Put(t.Context(), testMail("third"), store.Limits{StoreEntries: 2})
			require.ErrorIs(t, err, store.ErrFull)
			_, err = s.Put(t.Context(), testMail("third"), store.Limits{StoreEntries: 3})
			require.NoError(t, err)
			usage, err = s.Usage(t.Context(), "")
			require.NoError(t, err)
			require.EqualValues(t, 3, usage.Entries)
		})
	}
}

// A shard that the stream has lost is counted anew, too.
func TestLostShard(t *testing.T) {
	t.Parallel()
	srv := startServer(t, nil)
	s := open(t, testOptions(srv))
	put(t, s, testMail("first"))
	put(t, s, testMail("second"))
	own := s.cache.subjects.shard(s.writer.shard)
	require.NoError(t, s.Close())
	s = open(t, testOptions(srv))
	losePage(t, s, own)
	require.NoError(t, s.Close())
	s = open(t, testOptions(srv))
	defer func() { require.NoError(t, s.Close()) }()
	usage, err := s.Usage(t.Context(), "")
	require.NoError(t, err)
	require.EqualValues(t, 2, usage.Entries)
	_, err = s.Put(t.Context(), testMail("third"), store.Limits{StoreEntries: 2})
	require.ErrorIs(t, err, store.ErrFull)
}
