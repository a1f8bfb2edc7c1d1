package main

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/internal/freeport"
	"github.com/matrixrelay/relay/relaytest"
)

// The daemon takes a transaction and hands it out after a restart.
func TestServe(t *testing.T) {
	address, db := fmt.Sprint("127.0.0.1:", freeport.Find(t, 1)[0]), filepath.Join(t.TempDir(), "relay.db")
	network := relaytest.NewNetwork()
	network.Set("relay", relaytest.Host{Address: address})
	defer network.CloseIdleConnections()
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	callerOf := func(node *relaytest.Node) *client.Caller {
		c, err := client.NewCaller(client.CallerConfig{Identity: node.SigningIdentity, Transport: network})
		require.NoError(t, err)
		return c
	}
	fromA, fromB := callerOf(a), callerOf(b)
	transaction, err := client.NewTransaction(a.Transaction(b.ServerName, "t", 1, 300))
	require.NoError(t, err)
	whileItRuns(t, address, db, func() bool {
		return fromA.Send(t.Context(), "relay", transaction) == nil
	})
	whileItRuns(t, address, db, func() bool {
		answer, err := fromB.Next(t.Context(), "relay", 0)
		return err == nil && answer.EntriesQueued
	})
	require.ErrorContains(t, serve(t.Context(), "nonsense", "relay", db), "nonsense")
}

// whileItRuns tries until done answers true.
func whileItRuns(t *testing.T, address, db string, done func() bool) {
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, address, "relay", db) }()
	require.Eventually(t, done, time.Minute, 20*time.Millisecond)
	stop()
	require.NoError(t, <-ended)
}
