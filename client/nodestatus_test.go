package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
)

// TestNodeStatusOfRelays goes through all outcomes at a relay.
func TestNodeStatusOfRelays(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		require.Equal(t, client.NodeStatus{Online: true}, w.status())
		w.goOffline()
		w.setRelays(a.ServerName, r1)
		w.setRelays(b.ServerName, r2)
		require.Equal(t, []client.RelayStatus{{Relay: r1, Own: true}}, w.status().Relays, "it is to be asked")
		w.goOnline()
		time.Sleep(time.Second)
		one := w.status().Relays[0]
		require.ErrorIs(t, one.LastError, relaytest.ErrRefused)
		require.True(t, one.LastSuccess.IsZero())
		require.Zero(t, one.Successes)
		require.Positive(t, one.Failures)
		require.WithinDuration(t, time.Now(), one.LastFailure, time.Second)

		w.relay(r1)
		w.leave(r1, "1", "2", "3")
		w.node.Online()
		time.Sleep(time.Second)
		one = w.status().Relays[0]
		require.EqualValues(t, 3, one.Fetched)
		require.WithinDuration(t, time.Now(), one.LastSuccess, time.Second)
		require.Positive(t, one.Successes)
		require.ErrorIs(t, one.LastError, relaytest.ErrRefused, "of before")

		w.fails(func(context.Context) error { return errors.New("the database is locked") })
		w.leave(r1, "4")
		time.Sleep(time.Second)
		one = w.status().Relays[0]
		require.ErrorContains(t, one.LastError, "the database is locked")
		require.EqualValues(t, 3, one.Fetched)
		require.Len(t, w.status().Relays, 1)

		w.enqueue("1")
		time.Sleep(time.Second)
		all := w.status().Relays
		require.Len(t, all, 2)
		require.Equal(t, r2, all[1].Relay)
		require.False(t, all[1].Own)
		require.ErrorIs(t, all[1].LastError, relaytest.ErrRefused)
		require.Zero(t, all[1].Fetched)
		w.fails(nil)
		w.goOffline()
		require.Equal(t, len(all), len(w.status().Relays))
	})
}

// TestNodeStatusOfDestinations says where transactions are on their way.
func TestNodeStatusOfDestinations(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		w.relay(r1)
		w.setRelays(b.ServerName, r1, r2, r3)
		w.net.Set(r3, tooLarge)
		w.goOffline()
		w.enqueue("1", "2")
		given := func(lists ...client.HoldingStatus) []client.HoldingStatus { return lists }
		require.Equal(t, []client.DestinationStatus{{
			Destination: b.ServerName, Waiting: 2,
			Relays: given(client.HoldingStatus{r1, client.GivenNone, 0}, client.HoldingStatus{r2, client.GivenNone, 0}, client.HoldingStatus{r3, client.GivenNone, 0}),
		}}, w.status().Destinations)

		w.goOnline()
		time.Sleep(time.Second)
		one := w.status().Destinations[0]
		require.True(t, one.Offline)
		require.WithinDuration(t, time.Now(), one.NextAttempt, client.DefaultMostBackoff)
		require.True(t, one.NextAttempt.After(time.Now()))
		require.Equal(t, given(client.HoldingStatus{r1, client.GivenAll, 0}, client.HoldingStatus{r2, client.GivenNone, 0}, client.HoldingStatus{r3, client.GivenAll, 2}), one.Relays)

		w.goOffline()
		w.enqueue("3")
		one = w.status().Destinations[0]
		require.EqualValues(t, 3, one.Waiting)
		require.Equal(t, given(client.HoldingStatus{r1, client.GivenSome, 0}, client.HoldingStatus{r2, client.GivenNone, 0}, client.HoldingStatus{r3, client.GivenSome, 2}), one.Relays)

		w.net.AddHomeserver(b.ServerName)
		w.goOnline()
		time.Sleep(time.Second)
		require.Empty(t, w.status().Destinations)
	})
}

// The list of destinations has a bound.
func TestNodeStatusOfMany(t *testing.T) {
	skipIfShort(t)
	inNodeWorld(t, nil, func(w *nodeWorld) {
		w.goOffline()
		for i := range 1007 {
			made, err := client.NewTransaction(a.Transaction(spec.ServerName(fmt.Sprintf("s%04d.example", i)), "1", 1, 100))
			require.NoError(t, err)
			require.NoError(t, w.node.Enqueue(w.Context(), made))
		}
		status := w.status()
		require.Len(t, status.Destinations, 1000)
		require.Equal(t, 7, status.OtherDestinations)
		require.EqualValues(t, "s0999.example", status.Destinations[999].Destination)
	})
}
