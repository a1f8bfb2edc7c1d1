package table_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/table"
)

// The least used is forgotten: neither the oldest nor any one.
func TestTableForgetsTheLeastUsed(t *testing.T) {
	known := table.New[string, int](3)
	for i, key := range []string{"a", "b", "c"} {
		known.Set(key, i)
	}
	_, ok := known.Get("a")
	require.True(t, ok)
	known.Set("b", 7)
	require.True(t, known.IsFull())
	last, ok := known.Last()
	require.True(t, ok)
	require.Equal(t, "c", last)
	known.Set("d", 3)
	_, ok = known.Get("c")
	require.False(t, ok)
	known.Remove("a")
	known.Set("e", 4)
	b, ok := known.Get("b")
	require.True(t, ok)
	require.Equal(t, 7, b)
}

// A table has room for one key at least.
func TestSmallestTable(t *testing.T) {
	known := table.New[string, int](0)
	_, ok := known.Last()
	require.False(t, ok)
	known.Set("a", 1)
	known.Set("b", 2)
	_, ok = known.Get("a")
	require.False(t, ok)
	b, ok := known.Get("b")
	require.True(t, ok)
	require.Equal(t, 2, b)
}

// A site's value is found for each address in it, and a host's only for its own.
func TestAddresses(t *testing.T) {
	all := table.NewAddresses(10, 16, func(times int) *int { return &times })
	of := func(text string) []*int { return all.Of(netip.MustParseAddr(text)) }
	one, other := of("2a01:db8:1:2::1"), of("2a01:db8:1:3::1")
	require.Len(t, one, 2)
	require.Same(t, one[0], other[0])
	require.NotSame(t, one[1], other[1])
	require.Equal(t, 16, *one[0])
	require.Equal(t, 1, *one[1])
	require.Len(t, of("192.0.2.1"), 1)
	require.Equal(t, 16, *of("200::1")[0])
	require.Same(t, of("200::1")[0], of("201::1")[0])
	require.Same(t, of("192.0.2.1")[0], of("::ffff:192.0.2.1")[0])
}
