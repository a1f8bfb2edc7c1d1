//go:build unix

package main

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/pgtest"
	"github.com/matrixrelay/relay/relaytest"
)

// TestPostgres has two programs on one database: mail that one takes in the other
// hands out, also when the first was killed and the server restarted.
func TestPostgres(t *testing.T) {
	server := pgtest.New(t)
	db := withPassword(t, server.Database(t))
	first, second := start(t, "--db", db), start(t, "--db", db)
	require.NotContains(t, first.logged(), "secret")
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	sent := a.Transaction(b.ServerName, "t1", 2, 500)
	require.NoError(t, put(t, first.network(), a, sent))
	require.NoError(t, put(t, second.network(), a, sent), "a copy")
	require.NoError(t, put(t, second.network(), a, a.Transaction(b.ServerName, "t2", 1, 500)))
	first.kill()
	server.Kill()
	server.Start(t)

	third := start(t, "--db", db)
	got, err := get(t, third.network(), b, 0)
	require.NoError(t, err)
	require.Len(t, got.Transaction.PDUs, 2)
	got, err = get(t, second.network(), b, got.EntryID)
	require.NoError(t, err)
	require.Len(t, got.Transaction.PDUs, 1)
	got, err = get(t, third.network(), b, got.EntryID)
	require.NoError(t, err)
	require.False(t, got.EntriesQueued)
	second.stop()
	third.stop()
}

// withPassword adds a password, which the server doesn't ask for.
func withPassword(t *testing.T, db string) string {
	u, err := url.Parse(db)
	require.NoError(t, err)
	u.User = url.UserPassword(u.User.Username(), "secret")
	return u.String()
}

func TestPostgresFails(t *testing.T) {
	status, _, stderr := runToEnd(t, "--name", "relay", "--listen", "127.0.0.1:0", "--db", "postgres://x:secret@/y?host=/nonexistent")
	require.Equal(t, 1, status)
	require.Contains(t, stderr, "postgres: open")
	require.NotContains(t, stderr, "secret")
}

// TestMoveToPostgres is TestMove for operators that outgrow one machine.
func TestMoveToPostgres(t *testing.T) {
	server := pgtest.New(t)
	testMoveElsewhere(t, fileOf, func(t *testing.T) place { return place{db: server.Database(t)} })
}
