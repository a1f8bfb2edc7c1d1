package relay_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// An ordinary server whose Keys were left out refuses its peers, and says why. It
// takes servers whose names are keys.
func TestKeysLeftOut(t *testing.T) {
	var log bytes.Buffer
	mail := memory.New(memory.Options{})
	server, err := relay.New(relay.Config{ServerName: "relay.example", Store: mail, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	network := relaytest.NewNetwork()
	network.Set("relay.example", relaytest.Host{Handler: server})
	leave := func(from *relaytest.Node, id string) error {
		caller, err := client.NewCaller(client.CallerConfig{Identity: from.SigningIdentity, Transport: network})
		require.NoError(t, err)
		made, err := client.NewTransaction(from.Transaction("bob.example", id, 1, 100))
		require.NoError(t, err)
		return caller.Send(t.Context(), "relay.example", made)
	}
	for range 2 {
		var refusal *wire.Error
		require.ErrorAs(t, leave(relaytest.NewNamed("alice.example"), "1"), &refusal)
		require.Equal(t, http.StatusUnauthorized, refusal.Status)
		require.Contains(t, refusal.Message, "Config.Keys was left out")
	}
	require.Equal(t, 1, strings.Count(log.String(), "since Config.Keys was left out"), "%s", &log)
	require.Contains(t, log.String(), "server=alice.example")
	require.NoError(t, leave(relaytest.NewNode("alice"), "2"))
	forger := relaytest.NewNode("forger")
	forger.ServerName = relaytest.NewNode("alice").ServerName
	var refusal *wire.Error
	require.ErrorAs(t, leave(forger, "3"), &refusal)
	require.NotContains(t, refusal.Message, "Config.Keys")
	require.Equal(t, 2, strings.Count(log.String(), "\n"), "that, and the first that was refused: %s", &log)
	require.NoError(t, network.Close())
	require.NoError(t, server.Close())
	require.NoError(t, mail.Close())
}
