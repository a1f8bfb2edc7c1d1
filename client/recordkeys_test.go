package client_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// TestWithdrawnKeyOfRecord: a record with the greatest number, signed by a key that was
// stolen, is replaced by that of a relay once the key is withdrawn.
func TestWithdrawnKeyOfRecord(t *testing.T) {
	keys := &keysOf{}
	inRecordWorld(t, func(w *recordWorld) {
		w.change = func(c *client.NodeConfig) { c.Keys = keys }
		for _, name := range []spec.ServerName{r1, r2} {
			_, err := w.net.AddRelay(relay.Config{ServerName: name, Keys: keys, Logger: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
		}
		alice, bob := w.node(a), w.node(b)
		stolen := b.SigningIdentity
		stolen.KeyID = "ed25519:stolen"
		evil, err := wire.SignRelayRecord(wire.RelayRecord{
			Seq: wire.MaxInteger, Expires: uint64(time.Now().Add(24 * time.Hour).UnixMilli()),
			Relays: []wire.RecordRelay{{Name: r1}},
		}, stolen)
		require.NoError(t, err)
		require.NoError(t, alice.AddRecord(w.Context(), evil))
		keys.withdrawn.Store(true)
		bob.announce(r1, r2)
		alice.write(bob, "1")
		w.pass(2 * time.Hour)
		bob.requireGot("1")
		require.Equal(t, []spec.ServerName{r1, r2}, alice.Relays(b.ServerName))
	})
}

// TestInterruptedQuestion: a question about a record that ends since there is no network
// is asked again when there is one.
func TestInterruptedQuestion(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1)
		alice, bob := w.node(a), w.node(b)
		bob.announce(r1)
		alice.add(bob.Link())
		host := w.net.Host(r1)
		w.net.Set(r1, relaytest.Host{Hangs: true})
		alice.write(bob, "1")
		time.Sleep(5 * time.Second)
		alice.Offline()
		w.net.Set(r1, host)
		w.pass(time.Minute) // brings it online
		bob.Online()
		time.Sleep(time.Minute)
		bob.requireGot("1")
	})
}

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
