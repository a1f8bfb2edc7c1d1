package move

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
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
	for range 64 {
		all.Go(func() {
			for {
				select {
				case <-s.Done():
					return
				default:
				}
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
