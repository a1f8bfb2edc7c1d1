package steady

import (
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/stopwatch"
)

func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Start(1000)
		require.EqualValues(t, 1000, c.Now())
		time.Sleep(1500 * time.Millisecond)
		require.EqualValues(t, 2500, c.Now())
		c.Raise(2400)
		require.EqualValues(t, 2500, c.Now(), "it never goes back")
		c.Raise(9000)
		require.EqualValues(t, 9000, c.Now())
		time.Sleep(time.Second)
		require.EqualValues(t, 10_000, c.Now())
		c.Raise(-5)
		require.EqualValues(t, 10_000, c.Now())
	})
}

// A clock that was started when the machine's was too late for package time to
// keep beside a monotonic reading runs on as it should when that is put right.
func TestClockWithoutMonotonicReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Start(1000)
		c.ran = stopwatch.Start(time.Now().Add(200 * 365 * 24 * time.Hour))
		require.EqualValues(t, 1000, c.Now(), "the machine's clock was put right")
		time.Sleep(time.Hour)
		require.EqualValues(t, 1000+time.Hour.Milliseconds(), c.Now())
	})
}

// However processes come and go, together they count no more time than passes
// and none that passes while one of them is open all the time.
func TestClocksOfSeveralProcesses(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			dice := rand.New(rand.NewPCG(seed, 0))
			kept, start := int64(77), time.Now()
			lasting := Start(kept)
			others := make([]*Clock, 3)
			for range 200 {
				time.Sleep(time.Duration(dice.IntN(5000)) * time.Millisecond)
				i := dice.IntN(len(others))
				if others[i] == nil {
					others[i] = Start(kept)
				}
				others[i].Raise(kept)
				kept = max(kept, others[i].Now())
				if dice.IntN(4) == 0 {
					others[i] = nil
				}
				require.LessOrEqual(t, kept, 77+time.Since(start).Milliseconds(), "seed %d", seed)
				require.Equal(t, 77+time.Since(start).Milliseconds(), lasting.Now())
			}
		})
	}
}

func TestUntilAndLeft(t *testing.T) {
	for _, forever := range []time.Duration{0, -1, math.MinInt64} {
		require.EqualValues(t, math.MaxInt64, Until(5, forever))
	}
	require.Zero(t, Left(5, Never))
	for _, c := range []struct {
		lifetime time.Duration
		until    int64
	}{
		{1, 1001}, {time.Millisecond, 1001}, {time.Millisecond + 1, 1002}, {time.Hour, 3_601_000},
		{math.MaxInt64, 1000 + math.MaxInt64/1_000_000 + 1},
	} {
		require.Equal(t, c.until, Until(1000, c.lifetime), c.lifetime)
	}
	require.Equal(t, time.Second, Left(1000, 2000))
	require.Equal(t, time.Millisecond, Left(2000, 2000))
	require.Equal(t, time.Millisecond, Left(3000, 2000))
	require.Positive(t, Left(math.MinInt64/2, Never-1))
	require.LessOrEqual(t, Left(1000, Until(1000, math.MaxInt64)), time.Duration(math.MaxInt64))
}
