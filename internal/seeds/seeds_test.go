package seeds

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSeed(t *testing.T) {
	const variable, runs = "RELAY_SEED_TEST_SEED", "RELAY_SEED_TEST_RUNS"
	each := func(n int) (seeds []uint64) {
		Each(t, variable, runs, n, func(_ *testing.T, seed uint64) { seeds = append(seeds, seed) })
		return seeds
	}
	t.Setenv(Base, "")
	require.NotEqual(t, Of(t, variable), Of(t, variable))
	seeds := each(2)
	require.Equal(t, seeds[0]+1, seeds[1])
	require.Len(t, seeds, 2)

	t.Setenv(Base, "a tree")
	require.Equal(t, New(t, 0), Of(t, variable))
	require.Equal(t, Of(t, variable), Of(t, variable))
	require.NotEqual(t, New(t, 0), New(t, 1))
	t.Run("another", func(t *testing.T) { require.NotEqual(t, seeds[0], New(t, 0)) })

	t.Setenv(variable, "18446744073709551615")
	require.EqualValues(t, uint64(18446744073709551615), Of(t, variable))
	require.Equal(t, []uint64{18446744073709551615}, each(2))

	require.Equal(t, 7, Count(t, runs, 7))
	t.Setenv(runs, "3")
	require.Equal(t, 3, Count(t, runs, 7))
	require.Equal(t, []uint64{18446744073709551615, 18446744073709551615, 18446744073709551615}, each(2))
}
