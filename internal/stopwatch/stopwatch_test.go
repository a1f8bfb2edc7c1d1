package stopwatch

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A stopwatch that was started when the clock was past the dates that package time can
// keep beside a monotonic reading goes on when that is put right.
func TestStopwatchWithoutMonotonicReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Start(time.Now().Add(200 * 365 * 24 * time.Hour))
		require.Zero(t, s.Read())
		time.Sleep(time.Hour)
		require.Equal(t, time.Hour, s.Read())
	})
}
