package frequent_test

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/frequent"
)

// The worst is found among a hundred thousand, and its count is never too small.
func TestTop(t *testing.T) {
	top := frequent.New(16)
	require.Empty(t, top.List(3))
	for i := range 100_000 {
		top.Add(fmt.Sprint(i))
		if i%4 == 0 {
			top.Add("worst")
		}
	}
	top.Add("")
	list := top.List(100)
	require.Len(t, list, 16)
	require.Equal(t, "worst", list[0].Name)
	require.GreaterOrEqual(t, list[0].Times, int64(25_000))
	require.Len(t, top.List(3), 3)
}

func TestJoin(t *testing.T) {
	a, b := frequent.New(2), frequent.New(2)
	for range 3 {
		a.Add("x")
		b.Add("x")
		b.Add("y")
	}
	b.Add("x")
	a.Join(&b)
	require.Equal(t, []frequent.Count{{Name: "x", Times: 7}, {Name: "y", Times: 3}}, a.List(5))
	require.Equal(t, []frequent.Count{{Name: "x", Times: 4}, {Name: "y", Times: 3}}, b.List(5), "it is as it was")
}

func TestLongNames(t *testing.T) {
	top := frequent.New(2)
	top.Add(strings.Repeat("ä", 1000))
	require.Equal(t, strings.Repeat("ä", 127)+"...", top.List(1)[0].Name)
}

// A name keeps nothing of the header that it is a piece of.
func TestAddCopies(t *testing.T) {
	header := strings.Repeat("x", 1<<20)
	name := header[10:20]
	top := frequent.New(2)
	top.Add(name)
	top.Add(name)
	require.NotSame(t, unsafe.StringData(name), unsafe.StringData(top.List(1)[0].Name))
}
