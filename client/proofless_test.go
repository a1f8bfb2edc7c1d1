package client_test

import (
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// TestProoflessIsLeftAlone passes mail on to a destination and a relay that take
// it for mail like any other, and keep it each time.
func TestProoflessIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		us, b := relaytest.NewNode("us"), relaytest.NewNode("b").ServerName
		const deployed spec.ServerName = "deployed"
		network, peers := relaytest.NewNetwork(), client.NewPeers()
		keeps := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "null") })
		network.Set(b, relaytest.Host{Handler: keeps})
		network.Set(deployed, relaytest.Host{Handler: keeps})
		require.NoError(t, peers.AddRelays(t.Context(), b, deployed))
		caller, err := client.NewCaller(client.CallerConfig{Identity: us.SigningIdentity, Transport: network})
		require.NoError(t, err)
		sender, err := client.NewSender(client.SenderConfig{Caller: caller, Peers: peers})
		require.NoError(t, err)
		defer func() { require.NoError(t, sender.Close()) }()

		passedOn := client.Transaction{ID: "t", Destination: b, Body: []byte(`{"pdus":[]}`), Proof: &wire.Proof{Relay: us.ServerName}}
		for range 20 {
			outcome, err := sender.Send(t.Context(), passedOn)
			require.ErrorIs(t, err, client.ErrNotPassedOn)
			assert.Equal(t, client.NoUse, outcome.Destination.Verdict)
			time.Sleep(30 * time.Minute)
		}
		assert.Equal(t, 1, network.Asked(b))
		assert.Equal(t, 1, network.Asked(deployed))

		time.Sleep(24 * time.Hour)
		_, err = sender.Send(t.Context(), passedOn)
		require.ErrorIs(t, err, client.ErrNotPassedOn)
		assert.Equal(t, 2, network.Asked(b))
		assert.Equal(t, 2, network.Asked(deployed))

		passedOn.Proof = nil // our own mail doesn't need to be proven
		_, err = sender.Send(t.Context(), passedOn)
		require.NoError(t, err)
	})
}
