package sqlite

import (
	"database/sql/driver"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A query that has been read keeps no body: each connection would keep its last.
func TestQueriesKeepNoBody(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "relay.db"))
	m := bigMail(1, 100_000)
	put(t, s, m)
	entries := holds(t, s, m.Destination)
	require.Len(t, entries, 1)
	require.Equal(t, m.Body, entries[0].Body)
	var kept []driver.Value
	for range s.reader.opened {
		c := <-s.reader.conns // each in turn
		kept = append(kept, c.next.values...)
		s.reader.conns <- c
	}
	require.NotEmpty(t, kept)
	for _, value := range kept {
		require.Nil(t, value)
	}
}
