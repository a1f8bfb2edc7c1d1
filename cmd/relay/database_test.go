package main

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// A relay remembers as many copies as it is told to, and a command that opens its database
// has none of them forgotten.
func TestMaxCopies(t *testing.T) {
	fetched := mailOf(t) // 270 in the mailboxes of three
	for _, c := range []struct{ told, most, least int64 }{{64, 64 / 16, 1}, {-1, 300, 270}} {
		db := database(t)
		m := moving{copies: count(c.told)}
		s, err := m.open(t.Context(), db, natsFlags{}, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		for _, mail := range fetched {
			_, err := s.Put(t.Context(), mail, store.Limits{})
			require.NoError(t, err)
		}
		for _, mail := range fetched {
			entries, err := s.Next(t.Context(), mail.Destination, 0, 1, 1)
			require.NoError(t, err)
			_, err = s.Ack(t.Context(), mail.Destination, entries[0].ID)
			require.NoError(t, err)
		}
		before := copiesOf(t, s)
		require.GreaterOrEqual(t, before, c.least)
		require.LessOrEqual(t, before, c.most)
		require.NoError(t, s.Close())
		s, err = openStore(t.Context(), db, natsFlags{}, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		require.Equal(t, before, copiesOf(t, s))
		require.NoError(t, s.Close())
	}
}

func copiesOf(t *testing.T, s store.Store) int64 {
	t.Helper()
	sizes, err := s.(store.Measured).Sizes(t.Context())
	require.NoError(t, err)
	return sizes.Copies
}

// Log lines have no password and no token, in any form.
func TestShownDB(t *testing.T) {
	for db, want := range map[string]string{
		"relay.db": "relay.db",
		inMemory:   inMemory,

		"postgres://u:secret@h:1/x":                 "postgres://xxxxx@h:1/x",
		"postgres://u:secret@h:1,i:2/x?sslmode=off": "postgres://xxxxx@h:1,i:2/x",
		"postgres://h/x?user=u&password=secret":     "postgres://h/x",
		"postgres://h/x?user=u&password=se@secret":  "postgres://xxxxx",
		"postgres://u:se?secret@h/x":                "postgres://xxxxx",
		"postgres://u:1#secret@h/x":                 "postgres://xxxxx@h/x",
		"postgres://u:secret%zz@h/x":                "postgres://xxxxx@h/x",

		"nats://secret@h:1":                    "nats://xxxxx@h:1",
		"nats://u:se/secret@h:1":               "nats://xxxxx@h:1",
		"nats://u:secret@h:1,i:2":              "nats://xxxxx@h:1,i:2",
		"nats://u:secret@h:1,v:secret@i:2":     "nats://xxxxx@i:2",
		"tls://u:secret@h:1, tls://secret@i:2": "tls://xxxxx@i:2",
		"nats://u:secret,secret@h:1":           "nats://xxxxx@h:1",
	} {
		require.Equal(t, want, shownDB(db))
	}
}

// A URL that is wrong is refused without being shown.
func TestWrongDB(t *testing.T) {
	for _, db := range []string{
		"nats://u:secret@h:x", "nats://u:se/secret@h:1", "nats://h:1,u:secret%zz@i:2", "nats://u:secret,secret@h:1",
		"NATS://u:secret@h:1", "ws://u:secret@h:1", "mysql://u:secret@h/x",
	} {
		for _, args := range [][]string{{"--db", db}, {"--db", "relay.db", "--move-from", db}} {
			status, _, stderr := runToEnd(t, append([]string{"--name", "relay"}, args...)...)
			require.Equal(t, 2, status, stderr)
			require.Contains(t, stderr, args[len(args)-2]+": ")
			require.NotContains(t, stderr, "secret")
		}
	}
	for _, db := range []string{inMemory, "relay.db", "/a/relay.db", "postgresql://h", "tls://secret@h,i,nats://u:p@[::1]:1, j:4"} {
		require.NoError(t, checkDB("--db", db))
	}
}
