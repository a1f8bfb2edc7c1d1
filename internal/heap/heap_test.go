package heap_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/heap"
)

type item struct{ value, index int }

func (i *item) Before(other *item) bool { return i.value < other.value }
func (i *item) Index() *int             { return &i.index }

// After all that is pushed and removed, the least is on top.
func TestHeapAtRandom(t *testing.T) {
	for seed := range uint64(50) {
		dice := rand.New(rand.NewPCG(seed, 0))
		var h heap.Heap[*item]
		var in []*item
		for range 300 {
			if len(in) > 0 && dice.IntN(3) == 0 {
				i := dice.IntN(len(in))
				h.Remove(in[i])
				in = slices.Delete(in, i, i+1)
			} else {
				in = append(in, &item{value: dice.IntN(50)})
				h.Push(in[len(in)-1])
			}
			require.Equal(t, len(in), len(h), "seed %d", seed)
			if len(in) > 0 {
				least := slices.MinFunc(in, func(a, b *item) int { return a.value - b.value })
				require.Equal(t, least.value, h[0].value, "seed %d", seed)
			}
		}
	}
}
