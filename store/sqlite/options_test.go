package sqlite

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Zero is the default, less is none.
func TestOptions(t *testing.T) {
	for option, want := range map[time.Duration]time.Duration{0: 24 * time.Hour, -1: 0, time.Hour: time.Hour} {
		require.Equal(t, want, Options{Retention: option}.withDefaults().Retention)
	}
	require.NotNil(t, Options{}.withDefaults().Logger)
}
