package crowd

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/address"
	"github.com/matrixrelay/relay/internal/seeds"
)

// A holder is at one of some addresses.
type holder struct {
	from address.From
	name spec.ServerName
}

func randomHolder(r *rand.Rand) holder {
	return holder{address.Of(netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(40))})), spec.ServerName(fmt.Sprint("n", r.IntN(4)))}
}

// A listed is a member in the model of a crowd, in order of arrival.
type listed struct {
	by    holder
	m     *Member
	ended bool
}

// TestCrowdRandom holds a crowd against a list.
func TestCrowdRandom(t *testing.T) {
	const places, each = 64, 3
	random := rand.New(rand.NewPCG(seeds.Of(t, "RELAY_CROWD_SEED"), 0))
	c := New(places, each, Part)
	var model []*listed
	ended := 0
	for range 8000 {
		if random.IntN(10) < 6 {
			l := &listed{by: randomHolder(random)}
			full := len(model) == places
			l.m = c.Join(l.by.from, l.by.name, func() { l.ended = true })
			for i, other := range model {
				if other.ended {
					ended++
					requireRightEnd(t, model, i, l.by, full)
					model = append(model[:i:i], model[i+1:]...)
					break
				}
			}
			model = append(model, l)
		} else if len(model) > 0 {
			i := random.IntN(len(model))
			c.Leave(model[i].m)
			c.Leave(model[i].m) // again, as when it was ended before
			model = append(model[:i:i], model[i+1:]...)
		}
		require.Equal(t, len(model), c.Count())
		require.LessOrEqual(t, len(model), places)
	}
	require.Greater(t, ended, 200)
	for _, l := range model {
		require.False(t, l.ended)
		require.LessOrEqual(t, countOf(model, func(o *listed) bool { return o.by == l.by }), each)
		require.LessOrEqual(t, countOf(model, func(o *listed) bool { return o.by.from == l.by.from }), max(places/addressPart, least))
	}
	c.EndAll()
	for _, l := range model {
		require.True(t, l.ended)
		c.Leave(l.m)
	}
	require.Empty(t, c.addresses)
	require.Empty(t, c.sites)
	require.Empty(t, c.byWeight.items)
}

func countOf(model []*listed, is func(*listed) bool) (n int) {
	for _, l := range model {
		if is(l) {
			n++
		}
	}
	return n
}

// requireRightEnd: the one that ended for the next one is the oldest of its name, which
// had as many as it may, or most.
func requireRightEnd(t testing.TB, model []*listed, i int, next holder, full bool) {
	t.Helper()
	one := model[i]
	address := countOf(model, func(o *listed) bool { return o.by.from == one.by.from })
	name := countOf(model, func(o *listed) bool { return o.by == one.by })
	for j, l := range model {
		require.False(t, l.by == one.by && j < i, "an older one")
		if l.by.from == one.by.from && one.by != next {
			require.LessOrEqual(t, countOf(model, func(o *listed) bool { return o.by == l.by }), name)
		}
		if one.by.from != next.from {
			require.True(t, full)
			require.LessOrEqual(t, countOf(model, func(o *listed) bool { return o.by.from == l.by.from }), address)
		}
	}
}

// A /48 has so many addresses that each needs only one place to take all. They are ended
// for others, and no phone is ended for them, but phones that share a /48 aren't ended
// for an address that has more than each.
func TestOneSiteOfManyAddresses(t *testing.T) {
	const places = 640
	c := New(places, places, Part)
	ended := make(map[string]int)
	join := func(of, at string) {
		c.Join(address.Of(netip.MustParseAddr(at)), "", func() { ended[of]++ })
	}
	phones, carrier, flood := 0, 0, 0
	for i := range 8 * places {
		switch {
		case i%40 == 0 && phones < 100:
			join("phone", fmt.Sprintf("192.0.2.%d", phones))
			phones++
		case i%40 == 20 && carrier < 100:
			join("carrier", fmt.Sprintf("2a01:db8:2:%x::1", carrier))
			carrier++
		default:
			join("flood", fmt.Sprintf("2a01:db8:1:%x::1", flood))
			flood++
		}
	}
	require.Equal(t, places, c.Count())
	require.Equal(t, map[string]int{"flood": 8*places - places}, ended)
	for range 20 {
		join("many", "198.51.100.1")
	}
	require.Equal(t, map[string]int{"flood": 8*places - places + 20}, ended)
}

// Where nobody can be told apart, they have half of the places together.
func TestSharedAddress(t *testing.T) {
	c := New(100, 4, Part)
	one, shared := address.Of(netip.MustParseAddr("192.0.2.1")), address.Of(netip.Addr{})
	phone := false
	c.Join(one, "phone", func() { phone = true })
	for i := range 200 {
		c.Join(shared, spec.ServerName(fmt.Sprint(i)), func() {})
	}
	require.Equal(t, 1+100/sharedPart, c.Count())
	require.False(t, phone)
}
