package relaytest_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

const boxName = "relay.example"

func caller(t *testing.T, node *relaytest.Node, transport http.RoundTripper) *client.Caller {
	t.Helper()
	c, err := client.NewCaller(client.CallerConfig{Identity: node.SigningIdentity, Transport: transport})
	require.NoError(t, err)
	return c
}

func made(t *testing.T, from, to *relaytest.Node, id string) client.Transaction {
	t.Helper()
	transaction, err := client.NewTransaction(from.Transaction(to.ServerName, id, 2, 300))
	require.NoError(t, err)
	return transaction
}

// TestRelay sends between all kinds of names through a relay that is restarted
// on the way.
func TestRelay(t *testing.T) {
	p2p := relaytest.NewNode("p2p")
	require.Equal(t, p2p, relaytest.NewNode("p2p"))
	for _, test := range []struct{ from, to *relaytest.Node }{{alice, bob}, {p2p, bob}, {bob, p2p}} {
		inNetwork(t, func(t *testing.T, n *relaytest.Network) {
			mail := memory.New(memory.Options{})
			box, err := n.AddRelay(relay.Config{ServerName: boxName, Store: mail})
			require.NoError(t, err)
			require.NoError(t, caller(t, test.from, n).Send(t.Context(), boxName, made(t, test.from, test.to, "1")))
			usage, err := box.Store.Usage(t.Context(), test.to.ServerName)
			require.NoError(t, err)
			require.EqualValues(t, 1, usage.Entries)

			require.NoError(t, box.Close())
			require.NoError(t, box.Close(), "again")
			require.ErrorIs(t, caller(t, test.from, n).Send(t.Context(), boxName, made(t, test.from, test.to, "2")), relaytest.ErrRefused)
			_, err = n.AddRelay(relay.Config{ServerName: boxName, Store: mail})
			require.NoError(t, err)
			var got []gomatrixserverlib.TransactionID
			_, err = caller(t, test.to, n).Drain(t.Context(), boxName, func(_ context.Context, answer wire.Answer) error {
				got = append(got, answer.TransactionID)
				return nil
			})
			require.NoError(t, err)
			require.Equal(t, []gomatrixserverlib.TransactionID{"1"}, got)
			require.NoError(t, n.Close())
			require.NoError(t, mail.Close())
		})
	}
}

// TestRelayEndsWaits has a relay go while Bob waits for mail: he gets an answer.
func TestRelayEndsWaits(t *testing.T) {
	inNetwork(t, func(t *testing.T, n *relaytest.Network) {
		box, err := n.AddRelay(relay.Config{ServerName: boxName})
		require.NoError(t, err)
		answered := make(chan error, 1)
		go func() { answered <- fetch(t.Context(), n) }()
		time.Sleep(time.Second)
		began := time.Now()
		require.NoError(t, box.Close())
		require.NoError(t, <-answered)
		require.Zero(t, time.Since(began))
	})
}

// fetch waits for Bob's mail, as long as a relay lets him.
func fetch(ctx context.Context, transport http.RoundTripper) error {
	uri := "/_matrix/federation/v1/relay_txn/@user:bob.example?limit=1&timeout=300000"
	r, err := bob.Request(http.MethodGet, boxName, uri, map[string]int{"entry_id": 0})
	if err != nil {
		return err
	}
	body, err := read(ctx, transport, r)
	if err == nil && body != wire.EmptyTaking {
		err = errors.New(body)
	}
	return err
}

func TestRelayWithoutName(t *testing.T) {
	inNetwork(t, func(t *testing.T, n *relaytest.Network) {
		_, err := n.AddRelay(relay.Config{})
		require.ErrorContains(t, err, "ServerName")
	})
}

// TestKeys has a node sign in another's name.
func TestKeys(t *testing.T) {
	inNetwork(t, func(t *testing.T, n *relaytest.Network) {
		_, err := n.AddRelay(relay.Config{ServerName: boxName})
		require.NoError(t, err)
		forger := relaytest.NewNode("forger")
		forger.ServerName = alice.ServerName
		err = caller(t, forger, n).Send(t.Context(), boxName, made(t, alice, bob, "1"))
		var refusal *wire.Error
		require.ErrorAs(t, err, &refusal)
		require.Equal(t, http.StatusUnauthorized, refusal.Status)
	})
}
