package jetstream

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/store"
)

// Processes come and go on one stream, each with a clock of its machine that is
// wrong in its own way and jumps. No mail is lost, hidden or kept by that, and no
// ID comes twice. RELAY_CLOCK_SEED repeats it.
func TestWrongClocks(t *testing.T) {
	t.Parallel()
	dice := rand.New(rand.NewPCG(seeds.Of(t, "RELAY_CLOCK_SEED"), 0))
	wall := func() time.Time {
		days := []int{0, 40, -40, 400, -400, -365 * 60, 365 * 300}[dice.IntN(7)]
		return time.Now().AddDate(0, 0, days)
	}
	o := testOptions(startServer(t, nil))
	o.SweepInterval = 5 * time.Millisecond
	var stores []*Store
	defer func() {
		for _, s := range stores {
			require.NoError(t, s.Close())
		}
	}()
	kept, last := 0, int64(0)
	for step := range 40 {
		now := wall()
		o.wall = func() time.Time { return now }
		if len(stores) == 3 || len(stores) > 0 && dice.IntN(4) == 0 {
			require.NoError(t, stores[0].Close())
			stores = stores[1:]
		}
		s := open(t, o)
		stores = append(stores, s)
		mail := testMail(fmt.Sprint(step))
		mail.Lifetime = time.Hour
		put(t, stores[dice.IntN(len(stores))], mail)
		kept++
		brief := testMail(fmt.Sprint("brief", step))
		brief.Destination, brief.Lifetime = "c.example", time.Millisecond
		put(t, s, brief)
		entries := next(t, stores[dice.IntN(len(stores))], "b.example")
		require.Len(t, entries, kept, "step %d", step)
		for _, e := range entries {
			require.Positive(t, e.Lifetime)
			require.LessOrEqual(t, e.Lifetime, time.Hour+time.Minute) // processes differ a little
		}
		require.Greater(t, entries[kept-1].ID, last)
		last = entries[kept-1].ID
	}
	require.Eventually(t, func() bool {
		usage, err := stores[0].Usage(t.Context(), "c.example")
		return err == nil && usage == store.Usage{}
	}, patience, time.Millisecond)
}

// The clock goes on where it was written, for all, and a damaged record of it is
// made anew.
func TestClockGoesOn(t *testing.T) {
	t.Parallel()
	o := testOptions(startServer(t, nil))
	s := open(t, o)
	stood := s.cache.clock.Now()
	s.cache.clock.Raise(stood + time.Hour.Milliseconds())
	require.NoError(t, s.Close()) // which writes it
	s = open(t, o)
	require.GreaterOrEqual(t, s.cache.clock.Now(), stood+time.Hour.Milliseconds())
	other := open(t, o)
	other.cache.clock.Raise(stood + 2*time.Hour.Milliseconds())
	require.NoError(t, other.Close())
	require.Eventually(t, func() bool { return s.cache.clock.Now() >= stood+2*time.Hour.Milliseconds() }, patience, time.Millisecond)
	damagePage(t, s, s.cache.subjects.clock())
	require.NoError(t, s.Close())
	s = open(t, o)
	put(t, s, testMail("first"))
	require.NoError(t, s.Close())
}
