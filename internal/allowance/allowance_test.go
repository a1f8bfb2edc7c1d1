package allowance_test

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/matrixrelay/relay/internal/allowance"
)

// An address has its rate, a site sixteen times that, and a refusal costs neither anything.
func TestTakeOfBothOrNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := allowance.New(100, 16, rate.Every(time.Minute), 2)
		take := func(host int, within time.Duration) (time.Duration, bool) {
			return all.Take(netip.MustParseAddr(fmt.Sprintf("2a01:db8:1:%x::1", host)), within)
		}
		for host := range 16 {
			for range 2 {
				wait, ok := take(host, 0)
				require.True(t, ok)
				require.Zero(t, wait)
			}
			wait, ok := take(host, 0)
			require.False(t, ok)
			require.Equal(t, time.Minute, wait)
		}
		wait, ok := take(16, time.Second)
		require.False(t, ok, "the site has none")
		require.Equal(t, time.Minute/16, wait)
		wait, ok = take(16, 4*time.Second)
		require.True(t, ok)
		require.Equal(t, time.Minute/16, wait)
		time.Sleep(time.Minute)
		for range 2 {
			_, ok = take(16, 0)
			require.True(t, ok, "those that were refused didn't count")
		}
	})
}

// Of many at once no more are taken than there are, and the others cost nothing.
func TestTakeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const burst, rounds = 4, 500
		for range rounds {
			all := allowance.New(100, 16, rate.Every(time.Hour), burst)
			from := netip.MustParseAddr("192.0.2.1")
			var taken atomic.Int32
			var asking sync.WaitGroup
			for range 4 * burst {
				asking.Go(func() {
					if _, ok := all.Take(from, 0); ok {
						taken.Add(1)
					}
				})
			}
			asking.Wait()
			require.EqualValues(t, burst, taken.Load())
			_, ok := all.Take(from, time.Hour)
			require.True(t, ok)
		}
	})
}
