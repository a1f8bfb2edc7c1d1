package storetest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var timedTests = []test{
	{"runs while the store is open", testTimeRuns},
	{"goes on where it stood", testTimeGoesOn},
}

// storeTime returns where the store's clock stands. The test is skipped for
// stores that don't tell.
func (r *rig) storeTime() time.Duration {
	r.Helper()
	timed, ok := r.Store.(store.Timed)
	if !ok {
		r.Skip("the store isn't a store.Timed")
	}
	at, err := timed.StoreTime(r.Context())
	require.NoError(r, err)
	return at
}

func testTimeRuns(r *rig) {
	last := r.storeTime()
	begin := last
	r.eventually("the clock runs", func() bool {
		now := r.storeTime()
		require.GreaterOrEqual(r, now, last, "the clock went back")
		last = now
		return now > begin
	})
}

func testTimeGoesOn(r *rig) {
	stood := r.storeTime()
	if r.place.Volatile {
		r.Skip("not in this place")
	}
	for i := range 3 {
		r.eventually("the clock runs", func() bool { return r.storeTime() > stood })
		stood = r.storeTime()
		r.keep(letter(here, i)) // a store may write the clock with its commits
		timed := r.Store.(store.Timed)
		require.NoError(r, r.Close())
		_, err := timed.StoreTime(r.Context())
		require.ErrorIs(r, err, store.ErrClosed)
		r.Store = r.open()
		require.GreaterOrEqual(r, r.storeTime(), stood, "the clock doesn't go on where it stood")
	}
}
