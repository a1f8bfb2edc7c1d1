package relay

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

// Jumps count in both directions; time that passes doesn't, nor small steps.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		jumps, set := newClockJumps(), time.Duration(0)
		jumps.wall = func() time.Time { return time.Now().Add(set) }
		for _, step := range []struct {
			by    time.Duration
			total float64
		}{
			{0, 0}, {time.Hour, 1}, {0, 1}, {-time.Hour, 2}, {-30 * 365 * 24 * time.Hour, 3},
			{300 * time.Millisecond, 3}, {300 * time.Millisecond, 3}, {300 * time.Millisecond, 3}, {300 * time.Millisecond, 3},
			{time.Second, 4},
		} {
			time.Sleep(time.Minute)
			set += step.by
			require.InDelta(t, step.total, testutil.ToFloat64(jumps), 0, "after %v", step.by)
		}
	})
}
