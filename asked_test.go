package relay_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
)

// A server that asks is online, whether it acknowledges something or not, and
// whether there is mail. A request that is refused says nothing.
func TestAsked(t *testing.T) {
	var mu sync.Mutex
	var asked []spec.ServerName
	r := newRig(t, func(c *relay.Config) {
		c.Asked = func(server spec.ServerName) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, server)
		}
	})
	requireAsked := func(want ...spec.ServerName) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, want, asked)
		asked = nil
	}
	b := r.b.ServerName
	require.NoError(t, r.send(r.a, r.a.Transaction(b, "1", 1, 100)))
	requireAsked()
	entry := r.peek(r.b, 0).EntryID
	requireAsked(b)
	require.False(t, r.peek(r.b, entry).EntriesQueued)
	requireAsked(b)
	r.peek(r.b, entry+1000) // an entry that isn't there
	requireAsked(b)
	for _, content := range []string{`{"entry_id":-1}`, `[]`} {
		status, _ := r.ask(r.b, b, content)
		require.Equal(t, 400, status)
	}
	status, _ := r.ask(r.c, b, fmt.Sprintf(`{"entry_id":%d}`, entry))
	require.Equal(t, 403, status)
	requireAsked()
}
