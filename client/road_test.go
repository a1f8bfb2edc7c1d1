package client

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
)

// TestRoadTransitions goes over the whole table: which state follows each, and
// that nothing else does.
func TestRoadTransitions(t *testing.T) {
	for _, c := range []struct {
		from   state
		change change
		to     state
	}{
		{idle, wakes, ready}, {idle, comes, idle}, {idle, taken, idle}, {idle, rests, idle}, {idle, goesOn, idle}, {idle, pauses, waiting},
		{ready, wakes, ready}, {ready, comes, ready}, {ready, taken, served}, {ready, rests, ready}, {ready, goesOn, ready}, {ready, pauses, ready},
		{served, wakes, served}, {served, comes, served}, {served, taken, served}, {served, rests, idle}, {served, goesOn, ready}, {served, pauses, waiting},
		{waiting, wakes, ready}, {waiting, comes, ready}, {waiting, taken, waiting}, {waiting, rests, waiting}, {waiting, goesOn, waiting}, {waiting, pauses, waiting},
	} {
		s := newSchedule(4, Backoff{})
		r := s.add("b", false)
		for _, way := range map[state][]change{ready: {wakes}, served: {wakes, taken}, waiting: {pauses}}[c.from] {
			s.move(r, way, time.Time{})
		}
		require.Equal(t, c.from, r.state)
		s.move(r, c.change, time.Time{}.Add(1))
		require.Equal(t, c.to, r.state, "%d after %d", c.change, c.from)
		requireSound(t, s)
	}
}

// requireSound checks that each road is where its state says, and nowhere else.
func requireSound(t *testing.T, s *schedule) {
	t.Helper()
	in := make(map[*road][]state)
	for c, queue := range s.ready {
		for _, r := range queue {
			in[r] = append(in[r], ready)
			require.EqualValues(t, c, r.class)
		}
	}
	for i, r := range s.waiting {
		in[r] = append(in[r], waiting)
		require.Equal(t, i, r.inHeap)
		require.False(t, r.until.Before(s.waiting[0].until))
	}
	var busy [classes]int
	for _, d := range s.all {
		for _, r := range d.roads {
			switch r.state {
			case served:
				busy[r.class]++
				fallthrough
			case idle:
				require.Empty(t, in[r])
			default:
				require.Equal(t, []state{r.state}, in[r])
			}
			delete(in, r)
		}
	}
	require.Equal(t, busy, s.busy)
	require.Empty(t, in, "roads of destinations that were dropped")
}

// TestScheduleAtRandom drives a schedule with everything that happens to one, in
// any order, and in the end serves all that is left. RELAY_SCHEDULE_SEED repeats
// it.
func TestScheduleAtRandom(t *testing.T) {
	seed := seeds.Of(t, "RELAY_SCHEDULE_SEED")
	synctest.Test(t, func(t *testing.T) {
		dice := rand.New(rand.NewPCG(seed, 1))
		s := newSchedule(1+dice.IntN(8), Backoff{First: time.Second, Most: time.Minute}.withDefaults())
		name := func() spec.ServerName { return spec.ServerName(fmt.Sprint("d", dice.IntN(6))) }
		relays := func() []spec.ServerName { return []spec.ServerName{"r1", "r2", "r3"}[:dice.IntN(4)] }
		var working []*road
		for range 20_000 {
			switch dice.IntN(8) {
			case 0:
				s.fresh(name(), dice.IntN(2) == 0, relays())
			case 1:
				s.seen(name())
			case 2:
				s.useRelays(name(), relays())
			case 3:
				time.Sleep(time.Duration(dice.IntN(5000)) * time.Millisecond)
			case 4, 5:
				if r, _ := s.take(); r != nil {
					working = append(working, r)
				}
			default:
				if len(working) > 0 {
					s.done(working[0], turn{outcome: outcome(dice.IntN(6)), answered: dice.IntN(2) == 0, wait: time.Duration(dice.IntN(5)) * time.Second})
					working = working[1:]
				}
			}
			requireSound(t, s)
			require.LessOrEqual(t, len(working), s.workers)
		}
		for len(s.all) > 0 {
			r, wait := s.take()
			if r == nil && len(working) == 0 {
				time.Sleep(wait)
				continue
			}
			if r == nil {
				r, working = working[0], working[1:]
			}
			s.done(r, turn{outcome: exhausted})
		}
		requireSound(t, s)
	})
}

// TestProgress checks how a relay's refusals and debts are told apart.
func TestProgress(t *testing.T) {
	p := &progress{}
	p.through(3)
	p.refused(5)
	p.through(7)
	require.True(t, p.has(3))
	require.False(t, p.has(5))
	require.True(t, p.isThrough(5))
	require.True(t, p.has(7))
	require.False(t, p.isThrough(8))

	require.True(t, p.owe(9, time.Now()))
	p.through(10)
	require.False(t, p.isThrough(9))
	require.True(t, p.has(10))
	p.through(9)
	require.True(t, p.has(9))
	require.EqualValues(t, 10, p.Done)

	for i := range int64(maxRefused + 10) {
		p.refused(100 + i)
	}
	require.Len(t, p.Refused, maxRefused)
	require.False(t, p.has(100), "it is unclear so long ago")
	require.False(t, p.has(100+maxRefused))
	for i := range int64(maxOwed) {
		require.True(t, p.owe(1000+i, time.Now()))
	}
	require.False(t, p.owe(2000, time.Now()), "there is a bound")
	require.Less(t, p.Done, int64(2000))
}
