package client_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// TestSlowKeysHoldUpNobody: a server whose keys can't be looked up holds up nothing that
// is for others.
func TestSlowKeysHoldUpNobody(t *testing.T) {
	keys := &keysOf{}
	inRecordWorld(t, func(w *recordWorld) {
		w.change = func(c *client.NodeConfig) { c.Keys = keys }
		w.relays(r1)
		alice, bob := w.node(a), w.node(b)
		alice.announce(r1)
		by := relaytest.NewNode("slow").SigningIdentity
		sign := func(seq uint64, key gomatrixserverlib.KeyID) []byte {
			by.KeyID = key
			record, err := wire.SignRelayRecord(wire.RelayRecord{Seq: seq, Relays: []wire.RecordRelay{{Name: r1}}}, by)
			require.NoError(t, err)
			return recordBody(record.JSON())
		}
		done := func(context.Context) error { return nil }
		_, err := alice.Direct(w.Context(), by.ServerName, "1", sign(10, "ed25519:slow"), done)
		require.NoError(t, err)
		keys.hang.Store(true)
		ctx, cancel := context.WithCancel(w.Context())
		var waits sync.WaitGroup
		waits.Go(func() { _, _ = alice.Direct(ctx, by.ServerName, "2", sign(9, "ed25519:1"), done) })
		synctest.Wait()
		written := make(chan struct{})
		waits.Go(func() {
			alice.write(bob, "1")
			close(written)
		})
		select {
		case <-written:
		case <-time.After(time.Hour):
			t.Error("it waits")
		}
		cancel()
		waits.Wait()
	})
}

// keysOf are the keys of a test, by which the one that was stolen can be withdrawn, and
// those that are slow be looked up without an end.
type keysOf struct{ withdrawn, hang atomic.Bool }

func (k *keysOf) VerifyJSONs(ctx context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	results, err := relaytest.Keys().VerifyJSONs(ctx, requests)
	for i, r := range requests {
		ids, _ := gomatrixserverlib.ListKeyIDs(string(r.ServerName), r.Message)
		switch {
		case len(ids) == 1 && ids[0] == "ed25519:slow" && k.hang.Load():
			<-ctx.Done()
			return nil, ctx.Err()
		case len(ids) == 1 && ids[0] == "ed25519:stolen" && k.withdrawn.Load():
			results[i].Error = fmt.Errorf("%w: %w", wire.ErrNoKey, wire.ErrKeyNotValid)
		}
	}
	return results, err
}
