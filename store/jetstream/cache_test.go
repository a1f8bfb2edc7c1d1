package jetstream

import (
	"fmt"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store/internal/wake"
)

// A share that another process has changed isn't taken from the cache.
func TestSharesOfOthers(t *testing.T) {
	t.Parallel()
	srv := startServer(t, nil)
	s, other := open(t, testOptions(srv)), open(t, testOptions(srv))
	defer func() { require.NoError(t, s.Close()) }()
	defer func() { require.NoError(t, other.Close()) }()
	put(t, s, testMail("first"))
	put(t, s, testMail("second"))
	share := s.cache.subjects.share("b.example", hashOrigin("a.example"))
	_, ok := s.cache.get(share)
	require.True(t, ok, "what only this process changes is")
	put(t, other, testMail("third"))
	require.Eventually(t, func() bool { _, ok := s.cache.get(share); return !ok }, time.Minute, time.Millisecond)
	put(t, s, testMail("fourth"))
	_, ok = s.cache.get(share)
	require.True(t, ok)
	require.Len(t, next(t, s, "b.example"), 4)
}

// The cache forgets what it can't hold, but not what the store has.
func TestCacheKeepsShards(t *testing.T) {
	t.Parallel()
	c := newCache("R", &wake.Hub{})
	for i := range shards {
		c.learn(c.subjects.shard(i), message{uint64(i + 1), (&shard{}).encode()})
	}
	for i := range 2 * maxCached {
		c.learn(c.subjects.share(spec.ServerName(fmt.Sprint(i)), originHash{}), message{uint64(i + 100), nil})
	}
	require.LessOrEqual(t, len(c.records), maxCached)
	for i := range shards {
		_, ok := c.get(c.subjects.shard(i))
		require.True(t, ok)
	}
}
