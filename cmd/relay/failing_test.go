package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
)

// A program whose store has failed ends with an error that says why, also if
// nobody asks it for anything, and not with a line for each request.
func TestEndsWhenItsStoreFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.db")
	relay := start(t, "--db", path)
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	require.NoError(t, put(t, relay.network(), a, a.Transaction(b.ServerName, "1", 1, 100)))
	require.NoError(t, os.Rename(path, path+"-away"))
	require.Equal(t, 1, relay.status(), relay.logged())
	require.Contains(t, relay.logged(), "relay.db was taken away")
	require.Contains(t, relay.logged(), "so that the store is reopened")

	status, _, said := runToEnd(t, "--listen", "127.0.0.1:0", "--name", string(relayName), "--db", path)
	require.Equal(t, 1, status)
	require.Contains(t, said, "missing or empty")

	require.NoError(t, os.Rename(path+"-away", path))
	relay = start(t, "--db", path)
	answer, err := get(t, relay.network(), b, 0)
	require.NoError(t, err)
	require.True(t, answer.EntriesQueued)
	relay.stop()
}
