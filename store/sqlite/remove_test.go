package sqlite

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
)

// A caller whose context has ended may use its slice for other IDs: a job that still runs must not
// remove those.
func TestRemoveGivenUp(t *testing.T) {
	dice := rand.New(rand.NewPCG(seeds.Of(t, "RELAY_SQLITE_SEED"), 0))
	s := openQuietly(t, filepath.Join(t.TempDir(), "relay.db"), Options{SweepInterval: -1})
	put(t, s, mail(1))
	kept, err := s.List(t.Context(), "b", 0, 1)
	require.NoError(t, err)
	ids := make([]int64, sweepStep)
	for range 60 {
		for i := range ids {
			ids[i] = int64(i + 1) // of nothing
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(dice.Int64N(int64(3*time.Millisecond))))
		_, err := s.Remove(ctx, "b", ids)
		for i := range ids {
			ids[i] = kept[0].ID
		}
		cancel()
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
	}
	listed, err := s.List(t.Context(), "b", 0, 1)
	require.NoError(t, err)
	require.Equal(t, kept, listed)
}
