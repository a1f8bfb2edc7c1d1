package group

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// A committer remembers which jobs were committed together, and may be held up.
type committer struct {
	batches [][]int
	hold    chan struct{}
}

func (c *committer) commit(jobs []*Job[int]) {
	var works []int
	for _, j := range jobs {
		works = append(works, j.Work)
		if j.Work < 0 {
			j.Err = errNegative
		}
	}
	slices.Sort(works)
	c.batches = append(c.batches, works)
	<-c.hold
}

var errNegative = errors.New("negative")

// Jobs that come while a commit is on its way are committed together after it, and
// each caller gets the outcome of its own.
func TestTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &committer{hold: make(chan struct{})}
		after := 0
		q := New(c.commit, func() { after++ })
		outcomes := make(chan error, 10)
		do := func(n int) { outcomes <- q.Do(t.Context(), n, 1) }
		go do(1)
		synctest.Wait()
		for _, n := range []int{2, -3, 4} {
			go do(n)
		}
		synctest.Wait()
		close(c.hold)
		q.Close()
		synctest.Wait()
		require.Equal(t, [][]int{{1}, {-3, 2, 4}}, c.batches)
		require.Equal(t, 2, after)
		failed := 0
		for range 4 {
			if err := <-outcomes; err != nil {
				require.ErrorIs(t, err, errNegative)
				failed++
			}
		}
		require.Equal(t, 1, failed)
		require.ErrorIs(t, q.Do(t.Context(), 5, 1), store.ErrClosed)
	})
}

func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &committer{hold: make(chan struct{})}
		q := New(c.commit, nil)
		go func() { _ = q.Do(t.Context(), 0, 1) }()
		synctest.Wait()
		for n := range 2 * MaxJobs {
			go func() { _ = q.Do(t.Context(), n, 1) }()
		}
		synctest.Wait()
		for range 3 {
			go func() { _ = q.Do(t.Context(), 1000, MaxBytes/2) }()
		}
		synctest.Wait()
		close(c.hold)
		q.Close()
		var sizes []int
		for _, b := range c.batches {
			sizes = append(sizes, len(b))
		}
		require.Equal(t, []int{1, MaxJobs, MaxJobs, 2, 1}, sizes)
	})
}

// A caller that gives up doesn't wait, though the work is done.
func TestGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &committer{hold: make(chan struct{})}
		q := New(c.commit, nil)
		ctx, cancel := context.WithCancel(t.Context())
		outcome := make(chan error, 1)
		go func() { outcome <- q.Do(ctx, 1, 1) }()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-outcome, context.Canceled)
		require.ErrorIs(t, q.Do(ctx, 2, 1), context.Canceled)
		close(c.hold)
		q.Close()
		require.Equal(t, [][]int{{1}}, c.batches)
	})
}
