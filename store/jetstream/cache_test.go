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
	require.True(t, ok, "a record that only this process changes is")
	put(t, other, testMail("third"))
	require.Eventually(t, func() bool { _, ok := s.cache.get(share); return !ok }, time.Minute, time.Millisecond)
	put(t, s, testMail("fourth"))
	_, ok = s.cache.get(share)
	require.True(t, ok)
	require.Len(t, next(t, s, "b.example"), 4)
}

// The cache forgets records that it can't hold, but not the counts of mailboxes.
func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	c := newCache("R", &wake.Hub{})
	mailbox := &box{counts: counts{entries: 10, bytes: 70}, start: 1, base: 1, tail: make([]meta, 10)}
	c.learn(c.subjects.box("b.example"), message{1, encode(mailbox)})
	for i := range 2 * maxCached {
		c.learn(c.subjects.share(spec.ServerName(fmt.Sprint(i)), originHash{}), message{uint64(i + 100), nil})
	}
	require.LessOrEqual(t, len(c.records), maxCached)
	held, top := c.whole("")
	require.Equal(t, counts{entries: 10, bytes: 70}, held)
	require.EqualValues(t, 10, top)
}
