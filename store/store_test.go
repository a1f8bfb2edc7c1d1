package store_test

import (
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

func TestFirstID(t *testing.T) {
	at := func(year int) time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }
	believed := store.FirstID(at(2025))
	require.EqualValues(t, 1_735_689_600_000_000, believed)
	require.Equal(t, believed+1000, store.FirstID(at(2025).Add(time.Millisecond)))
	require.Less(t, store.FirstID(at(2101).Add(-time.Nanosecond)), int64(store.MaxID)/2)
	seen := make(map[int64]bool)
	for range 100 {
		for _, unset := range []time.Time{{}, time.Unix(0, 0), at(2025).Add(-1), at(2101), time.Unix(1<<40, 0)} {
			id := store.FirstID(unset)
			require.Positive(t, id)
			require.Less(t, id, believed, "a store goes on where it is")
			require.False(t, seen[id], "a new store doesn't begin where another did")
			seen[id] = true
		}
	}
}

func TestPrivate(t *testing.T) {
	require.EqualValues(t, "~outbox/b.example:8448", store.Private("outbox", "b.example:8448"))
	require.EqualValues(t, "~outbox/", store.Private("outbox", ""))
	for _, name := range []spec.ServerName{store.Private("outbox", "b"), store.Private("", ""), store.PrivateHalf} {
		require.True(t, store.IsPrivate(name))
		_, _, valid := spec.ParseAndValidateServerName(name)
		require.False(t, valid, "a server could have the name %q", name)
		_, err := spec.NewUserID("@user:"+string(name), true)
		require.Error(t, err)
	}
	for _, name := range []spec.ServerName{"", "b", "b~", "}", "\x7f"} {
		require.False(t, store.IsPrivate(name))
	}
}
