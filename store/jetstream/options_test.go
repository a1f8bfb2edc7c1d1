package jetstream

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Zero is the default, less is none or no limit.
func TestOptions(t *testing.T) {
	for option, want := range map[time.Duration]time.Duration{0: 24 * time.Hour, -1: 0, time.Hour: time.Hour} {
		require.Equal(t, want, Options{Retention: option}.withDefaults().Retention)
	}
	for option, want := range map[time.Duration]time.Duration{0: 30 * time.Second, -1: 100 * 365 * 24 * time.Hour, time.Hour: time.Hour} {
		require.Equal(t, want, Options{Timeout: option}.withDefaults().Timeout)
	}
	require.NotNil(t, Options{}.withDefaults().Logger)
	require.Equal(t, "RELAY", Options{}.withDefaults().Stream)

	for option, want := range map[int]int{0: 1, -1: 1, 1: 1} { // a server that is alone keeps no more
		o := testOptions(startServer(t, nil))
		o.Replicas, o.MaxBytes, o.Timeout = option, -1, -1
		s := open(t, o)
		put(t, s, testMail("first"))
		stream, err := s.engine.js.Stream(t.Context(), s.options.Stream)
		require.NoError(t, err)
		require.Equal(t, want, stream.CachedInfo().Config.Replicas)
		require.NoError(t, s.Close())
	}
}
