package relay

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
)

// A listed is a request of the model of a crowd, in order of arrival.
type listed struct {
	by    holder
	w     *waiting
	ended bool
}

// TestCrowdRandom holds a crowd against a list.
func TestCrowdRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(seeds.Of(t, "RELAY_CROWD_SEED"), 0))
	c := newCrowd()
	var model []*listed
	remove := func(i int) { model = append(model[:i:i], model[i+1:]...) }
	for range 5000 {
		switch n := random.IntN(10); {
		case n < 6:
			l := &listed{by: at(byte(random.IntN(5)), spec.ServerName(fmt.Sprint("n", random.IntN(4))))}
			l.w = c.join(l.by.from, l.by.name, func() { l.ended = true })
			model = append(model, l)
		case len(model) == 0:
		case n < 8:
			i := random.IntN(len(model))
			c.leave(model[i].w)
			c.leave(model[i].w) // again, as when it was ended before
			remove(i)
		default:
			c.endMost()
			for i, l := range model {
				if l.ended {
					requireOldestOfMost(t, model, i)
					remove(i)
					break
				}
			}
		}
		require.Equal(t, len(model), c.count)
		require.Len(t, c.all(), len(model))
	}
	for _, l := range model {
		atAddress, ofName := c.of(l.by.from, l.by.name)
		require.Equal(t, countOf(model, func(o *listed) bool { return o.by.from == l.by.from }), atAddress)
		require.Equal(t, countOf(model, func(o *listed) bool { return o.by == l.by }), ofName)
		require.False(t, l.ended)
	}
	for c.count > 0 {
		c.endMost()
	}
	require.Empty(t, c.addresses)
}

func countOf(model []*listed, is func(*listed) bool) (n int) {
	for _, l := range model {
		if is(l) {
			n++
		}
	}
	return n
}

func requireOldestOfMost(t testing.TB, model []*listed, i int) {
	t.Helper()
	one := model[i]
	address := countOf(model, func(o *listed) bool { return o.by.from == one.by.from })
	name := countOf(model, func(o *listed) bool { return o.by == one.by })
	for j, l := range model {
		require.LessOrEqual(t, countOf(model, func(o *listed) bool { return o.by.from == l.by.from }), address)
		if l.by.from == one.by.from {
			require.LessOrEqual(t, countOf(model, func(o *listed) bool { return o.by == l.by }), name)
		}
		require.False(t, l.by == one.by && j < i, "an older one")
	}
}
