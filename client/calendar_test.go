package client

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
)

// However a clock jumps, if it is wrong for less than an hour at a time, and looked
// at while it is right, no date that isn't past is taken for past; and one that is
// past is, once the clock is right for long. RELAY_CALENDAR_SEED repeats it.
func TestCalendar(t *testing.T) {
	dice := rand.New(rand.NewPCG(seeds.Of(t, "RELAY_CALENDAR_SEED"), 0))
	for range 300 {
		synctest.Test(t, func(t *testing.T) {
			c := &clockScript{t: t, dice: dice}
			c.wrong = dice.IntN(2) == 0 // the machine boots with a wrong clock
			c.jump()
			c.calendar = newCalendar(c.wall, time.Hour)
			for range 1 + dice.IntN(8) {
				if c.wrong {
					c.live(1 + time.Duration(dice.Int64N(int64(time.Hour-1))))
				} else {
					c.live(time.Duration(dice.Int64N(int64(5 * time.Hour))))
					c.look()
				}
				c.wrong = !c.wrong
				c.jump()
			}
			c.wrong = false
			c.jump()
			for range 18 { // a span of the wrong clock, one of the right clock, and patience
				c.look()
				time.Sleep(10 * time.Minute)
			}
			past, certain := c.calendar.isPast(time.Now().Add(-time.Hour))
			require.True(t, past && certain)
		})
	}
}

// A clockScript is a clock that jumps.
type clockScript struct {
	t        *testing.T
	dice     *rand.Rand
	calendar *calendar
	wrong    bool
	ahead    time.Duration
}

func (c *clockScript) wall() time.Time { return time.Now().Round(0).Add(c.ahead) }

func (c *clockScript) jump() {
	const day = 24 * time.Hour
	c.ahead = 0
	if c.wrong {
		c.ahead = []time.Duration{-11_000 * day, -40 * day, -time.Hour, time.Hour, 40 * day, 60_000 * day, 90_000 * day}[c.dice.IntN(7)]
	}
}

// live looks now and then.
func (c *clockScript) live(long time.Duration) {
	for long > 0 {
		wait := min(long, time.Duration(c.dice.Int64N(int64(2*time.Hour))))
		time.Sleep(wait)
		long -= wait
		c.look()
		if c.wrong && c.dice.IntN(4) == 0 { // wrong in another way
			c.jump()
		}
	}
}

// look asks for a date that isn't past, and for one that is.
func (c *clockScript) look() {
	c.t.Helper()
	soon := time.Now().Add(time.Duration(c.dice.Int64N(int64(30 * 24 * time.Hour))))
	past, certain := c.calendar.isPast(soon)
	require.False(c.t, past && certain, "the clock is %v ahead", c.ahead)
	if !c.wrong {
		require.False(c.t, past)
		past, _ = c.calendar.isPast(time.Now().Add(-time.Minute))
		require.True(c.t, past)
	}
}

// Without patience a date that the clock says is past is past, however it was set.
func TestCalendarWithoutPatience(t *testing.T) {
	ahead := time.Duration(0)
	c := newCalendar(func() time.Time { return time.Now().Round(0).Add(ahead) }, -1)
	ahead = 48 * time.Hour
	past, certain := c.isPast(time.Now().Add(24 * time.Hour))
	require.True(t, past && certain)
}
