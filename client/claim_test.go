package client_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

func TestClaim(t *testing.T) {
	kept := memory.New(memory.Options{})
	key := []byte(strings.Repeat("k", policy.MinInviteKey))
	mode, err := policy.NewInvite(policy.InviteConfig{Store: kept, ServerName: relayName, Key: key})
	require.NoError(t, err)
	server, err := relay.New(relay.Config{ServerName: relayName, Store: kept, Policy: mode})
	require.NoError(t, err)
	defer func() { require.NoError(t, server.Close()); require.NoError(t, kept.Close()) }()
	network := serve(t, server)
	sender, receiver := callers(t, a, network)["transport"], callers(t, b, network)["transport"]
	invite, err := policy.NewInviteText(key, 1, time.Now())
	require.NoError(t, err)

	requireStatus(t, http.StatusForbidden, sender.Send(t.Context(), relayName, transaction(t, "1")))
	requireStatus(t, http.StatusForbidden, receiver.Claim(t.Context(), relayName, "x.y"))
	require.Error(t, receiver.Claim(t.Context(), relayName, "no invite"))
	for range 2 {
		require.NoError(t, receiver.Claim(t.Context(), relayName, invite+"\n"))
	}
	requireStatus(t, http.StatusForbidden, sender.Claim(t.Context(), relayName, invite))
	require.NoError(t, sender.Send(t.Context(), relayName, transaction(t, "1")))
	handled, err := receiver.Drain(t.Context(), relayName, func(context.Context, wire.Answer) error { return nil })
	require.NoError(t, err)
	require.Equal(t, 1, handled)
}

func requireStatus(t *testing.T, status int, err error) {
	t.Helper()
	var e *wire.Error
	require.True(t, errors.As(err, &e), "%v", err)
	require.Equal(t, status, e.Status)
}
