package copies

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
)

func TestLimits(t *testing.T) {
	require.Equal(t, Limits{1_000_000, 62_500}, LimitsOf(0, 0))
	require.Equal(t, Limits{160, 10}, LimitsOf(160, 0))
	require.Equal(t, Limits{3, 1}, LimitsOf(3, 0))
	require.Equal(t, Limits{3, 2}, LimitsOf(3, 2))
	require.True(t, LimitsOf(-1, 5).AreAny())
	require.True(t, LimitsOf(5, -1).AreAny())
	require.False(t, LimitsOf(-1, 0).AreAny())
	require.False(t, LimitsOf(-1, -1).AreAny())
}

// A plain is a Ledger in the simplest form.
type plain struct {
	limits Limits
	copies []one // in the order of their time
}

type one struct {
	origin spec.ServerName
	it     int
	until  int64
}

func (p *plain) sizes() map[spec.ServerName]int64 {
	sizes := make(map[spec.ServerName]int64)
	for _, c := range p.copies {
		sizes[c.origin]++
	}
	return sizes
}

func (p *plain) drop(it int) (origin spec.ServerName, isOldest bool) {
	i := slices.IndexFunc(p.copies, func(c one) bool { return c.it == it })
	origin = p.copies[i].origin
	isOldest = slices.IndexFunc(p.copies, func(c one) bool { return c.origin == origin }) == i
	p.copies = slices.Delete(p.copies, i, i+1)
	return origin, isOldest
}

// After any steps the ledger has what it must, and takes from the origins that it may.
func TestLedgerAtRandom(t *testing.T) {
	seeds.Each(t, "RELAY_COPIES_SEED", "RELAY_COPIES_RUNS", 30, func(t *testing.T, seed uint64) {
		dice := rand.New(rand.NewPCG(seed, 0))
		limits := Limits{All: 1 + dice.Int64N(60), OfOrigin: 1 + dice.Int64N(20)}
		l, p, now := New[int](limits), &plain{limits: limits}, int64(0)
		for n := range 500 {
			now += dice.Int64N(3)
			origin := spec.ServerName(fmt.Sprint(dice.IntN(1 + dice.IntN(8))))
			l.Add(origin, n, now+50)
			p.copies = append(p.copies, one{origin, n, now + 50})
			if dice.IntN(4) == 0 {
				l.Expire(now, func(it int) { p.drop(it) })
				require.False(t, slices.ContainsFunc(p.copies, func(c one) bool { return c.until <= now }))
			}
			keep(t, l, p, dice.Int64N(10))
		}
		l.Expire(now+50, func(it int) { p.drop(it) })
		require.Empty(t, p.copies)
		require.Zero(t, l.Count())
		require.Empty(t, l.shares)
		require.Empty(t, l.most)
	})
}

// keep drops all that is over, with so many that aren't listed.
func keep(t *testing.T, l *Ledger[int], p *plain, unlisted int64) {
	for {
		sizes := p.sizes()
		it, isListed, isOver := l.Over(unlisted)
		if !isOver {
			break
		}
		largest := int64(0)
		for _, size := range sizes {
			largest = max(largest, size)
		}
		if !isListed {
			require.Greater(t, unlisted, largest)
			unlisted--
			continue
		}
		origin, isOldest := p.drop(it)
		require.True(t, isOldest)
		require.Equal(t, largest, sizes[origin])
		require.True(t, largest > p.limits.OfOrigin || int64(len(p.copies))+1+unlisted > p.limits.All, "taken without need")
	}
	require.EqualValues(t, len(p.copies), l.Count())
	require.LessOrEqual(t, l.Count()+unlisted, max(p.limits.All, unlisted))
	for _, size := range p.sizes() {
		require.LessOrEqual(t, size, p.limits.OfOrigin)
	}
}

// Made-up names cost a bounded number of shares, and don't touch a server that was there
// before them.
func TestManyNames(t *testing.T) {
	l := New[int](Limits{All: 20_000, OfOrigin: 100})
	l.Add("honest", -1, 1)
	for n := range 50_000 {
		l.Add(spec.ServerName(fmt.Sprint("made up ", n)), n, 1)
		for {
			it, isListed, isOver := l.Over(0)
			if !isOver {
				break
			}
			require.True(t, isListed)
			require.NotEqual(t, -1, it)
		}
	}
	require.LessOrEqual(t, len(l.shares), 2*maxNames)
	require.EqualValues(t, 20_000, l.Count())
	require.Len(t, l.shares["honest"].copies, 1)
}
