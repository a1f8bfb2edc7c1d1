package policy

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A bucket that was used when the machine's clock showed a far time, which package time
// keeps without a monotonic reading, is filled when that is put right.
func TestBucketAndAClockThatIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(Rate{PerSecond: 1, Burst: 10}, 1)
		b.take(time.Now().AddDate(200, 0, 0), 20)
		require.Equal(t, 11*time.Second, b.wait(time.Now()))
		time.Sleep(11 * time.Second)
		require.Zero(t, b.wait(time.Now()))
	})
}
