package client_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/store/sqlite"
)

func TestPeers(t *testing.T) {
	ctx := t.Context()
	p := client.NewPeers()
	require.Empty(t, p.Relays("b"))
	require.NotNil(t, p.Relayed())
	require.NoError(t, p.AddRelays(ctx, "b", "r2", "r1", "r2"))
	require.NoError(t, p.AddRelays(ctx, "b", "r3", "r1"))
	require.NoError(t, p.AddRelays(ctx, "a", "r1"))
	require.NoError(t, p.AddRelays(ctx, "c"))
	require.Equal(t, []spec.ServerName{"r1", "r2", "r3"}, p.Relays("b"))
	require.Equal(t, []spec.ServerName{"a", "b"}, p.Relayed())

	p.Relays("b")[0] = "changed"
	require.NoError(t, p.RemoveRelays(ctx, "b", "r2", "never there"))
	require.Equal(t, []spec.ServerName{"r1", "r3"}, p.Relays("b"))
	require.NoError(t, p.RemoveRelays(ctx, "a", "r1"))
	require.Equal(t, []spec.ServerName{"b"}, p.Relayed())

	require.False(t, p.Offline("b"))
	require.NoError(t, p.SetOffline(ctx, "b", true))
	require.NoError(t, p.SetOffline(ctx, "d", true))
	require.True(t, p.Offline("b"))
	require.Equal(t, []spec.ServerName{"b", "d"}, p.OfflineServers())
	require.NoError(t, p.SetOffline(ctx, "b", false))
	require.Equal(t, []spec.ServerName{"d"}, p.OfflineServers())

	require.Error(t, p.AddRelays(ctx, "b", "b"), "its own relay")
	require.Error(t, p.AddRelays(ctx, "b", "not a name"))
	require.Error(t, p.AddRelays(ctx, "", "r1"))
}

func TestPeersAreKept(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "relay.db")
	kept, err := sqlite.Open(path, sqlite.Options{})
	require.NoError(t, err)
	p, err := client.OpenPeers(ctx, kept)
	require.NoError(t, err)
	var all sync.WaitGroup
	for i := range 2500 { // more than a page
		all.Go(func() {
			if err := p.AddRelays(ctx, spec.ServerName(fmt.Sprintf("s%d", i)), "r1"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	require.NoError(t, p.AddRelays(ctx, "b", "r1", "r2"))
	require.NoError(t, p.SetOffline(ctx, "b", true))
	require.NoError(t, p.SetOffline(ctx, "c", true))
	require.NoError(t, p.SetOffline(ctx, "c", false))
	require.NoError(t, p.RemoveRelays(ctx, "s7", "r1"))
	require.NoError(t, kept.Close())

	kept, err = sqlite.Open(path, sqlite.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, kept.Close()) }()
	again, err := client.OpenPeers(ctx, kept)
	require.NoError(t, err)
	require.Equal(t, p.Relayed(), again.Relayed())
	require.Equal(t, []spec.ServerName{"r1", "r2"}, again.Relays("b"))
	require.Equal(t, []spec.ServerName{"b"}, again.OfflineServers())
	notes, err := kept.Notes(ctx, "", "", 10_000)
	require.NoError(t, err)
	require.Len(t, notes, 2500, "a server of which nothing is known isn't kept")
}

func TestPeersSayWhatIsNotKept(t *testing.T) {
	kept := memory.New(memory.Options{})
	defer func() { require.NoError(t, kept.Close()) }()
	broken := newFaulty(kept, 100, "SetNotes")
	p, err := client.OpenPeers(t.Context(), broken)
	require.NoError(t, err)
	require.ErrorIs(t, p.AddRelays(t.Context(), "b", "r1"), errFault)
	require.Equal(t, []spec.ServerName{"r1"}, p.Relays("b"), "it counts until the process ends")
	broken.percent.Store(0)
	require.NoError(t, p.AddRelays(t.Context(), "b", "r1"), "the same again is written down")
	again, err := client.OpenPeers(t.Context(), kept)
	require.NoError(t, err)
	require.Equal(t, []spec.ServerName{"r1"}, again.Relays("b"))

	require.NoError(t, kept.SetNotes(t.Context(), []store.Note{{Key: "peer/b", Value: []byte("{")}}))
	again, err = client.OpenPeers(t.Context(), kept)
	require.NoError(t, err)
	require.Empty(t, again.Relays("b"))
	aside, err := kept.Notes(t.Context(), "damaged/", "", 10)
	require.NoError(t, err)
	require.Equal(t, []store.Note{{Key: "damaged/peer/b", Value: []byte("{")}}, aside)
}
