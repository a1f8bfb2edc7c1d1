package bounded

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFit(t *testing.T) {
	for _, c := range []struct {
		files                                uint64
		connections, waiting                 int
		wantedConnections, wantedWaitingFits int
	}{
		{1 << 20, 24_000, 20_000, 24_000, 20_000},
		{1 << 63, 24_000, 20_000, 24_000, 20_000},
		{1024, 24_000, 20_000, 896, 745},
		{256, 24_000, 20_000, 192, 160},
		{1024, 100, 20, 100, 20},
		{1024, 100, 20_000, 100, 80},
		{1 << 63, 600, 20_000, 600, 500},
		{1 << 63, noLimit, 20_000, noLimit, 20_000},
		{20, 24_000, 20_000, 1, 1},
	} {
		connections, waiting := fit(c.files, c.connections, c.waiting)
		require.Equal(t, c.wantedConnections, connections, "%+v", c)
		require.Equal(t, c.wantedWaitingFits, waiting, "%+v", c)
	}
}

// The limit of this process is known where there is one, and never less than it was.
func TestFitHere(t *testing.T) {
	connections, waiting := Fit(-1, -1)
	require.Positive(t, connections)
	require.Equal(t, -1, waiting, "none")
	if files, known := openFiles(); known && files < noLimit {
		require.Less(t, connections, int(files))
	}
}
