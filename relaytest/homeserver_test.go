package relaytest_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/matrix-org/gomatrix"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// TestHomeserver sends with fclient to one that takes, one that refuses and one
// that fails.
func TestHomeserver(t *testing.T) {
	inNetwork(t, func(t *testing.T, n *relaytest.Network) {
		home := n.AddHomeserver(bob.ServerName)
		var trouble error
		home.Take = func(context.Context, relaytest.Sent) error { return trouble }
		send := func(from *relaytest.Node, id string) (status int) {
			_, err := from.Federation(n).SendTransaction(t.Context(), from.Transaction(bob.ServerName, id, 2, 300))
			if err == nil {
				return http.StatusOK
			}
			var refusal gomatrix.HTTPError
			require.ErrorAs(t, err, &refusal)
			return refusal.Code
		}
		require.Equal(t, http.StatusOK, send(alice, "1"))
		trouble = errors.New("the disk is full")
		require.Equal(t, http.StatusInternalServerError, send(alice, "2"))
		trouble = wire.Forbidden("not from Alice")
		require.Equal(t, http.StatusForbidden, send(alice, "3"))
		trouble = nil
		forger := relaytest.NewNode("forger")
		forger.ServerName = alice.ServerName
		require.Equal(t, http.StatusUnauthorized, send(forger, "4"))

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := home.Await(ctx, 2)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		answered := make(chan int, 1)
		time.AfterFunc(time.Hour, func() { answered <- send(relaytest.NewNode("p2p"), "5") })
		sent, err := home.Await(t.Context(), 2)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, <-answered)
		require.Equal(t, sent, home.Sent())
		require.Equal(t, alice.ServerName, sent[0].Origin)
		require.Equal(t, relaytest.NewNode("p2p").ServerName, sent[1].Origin)
		require.EqualValues(t, "5", sent[1].TransactionID)
		require.Len(t, sent[1].PDUs, 2)
		require.Contains(t, string(sent[1].Body), `"pdus"`)
	})
}

func TestHomeserverHasNothingElse(t *testing.T) {
	inNetwork(t, func(t *testing.T, n *relaytest.Network) {
		n.AddHomeserver(bob.ServerName)
		r, err := alice.Request(http.MethodGet, bob.ServerName, "/_matrix/federation/v1/version", nil)
		require.NoError(t, err)
		body, err := read(t.Context(), n, r)
		require.NoError(t, err)
		require.Contains(t, body, "M_UNRECOGNIZED")
	})
}
