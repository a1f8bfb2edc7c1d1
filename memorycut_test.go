package relay

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// An answer that begins after all were cut off, since the store was slow, is cut off.
func TestCutAllHoldsForLater(t *testing.T) {
	b := newBudget(1)
	cut := 0
	end := func() bool { cut++; return true }
	b.share(end)
	b.cutAll()
	require.Equal(t, 1, cut)
	b.share(end)
	require.Equal(t, 2, cut)
}
