package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// countedNotes counts the calls that write, and fails those of one number.
type countedNotes struct {
	*memory.Store
	writes, fails atomic.Int64
}

func (c *countedNotes) SetNotes(ctx context.Context, notes []store.Note) error {
	if c.writes.Add(1) == c.fails.Load() {
		return errors.New("the disk is away")
	}
	return c.Store.SetNotes(ctx, notes)
}

// A server that has never had a relay writes nothing for what comes directly. With its
// first relay it writes down what came before, and goes on when it has none any more.
func TestHistoryIsKeptForRelays(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.relay(r1)
		notes := &countedNotes{Store: b.mail}
		open := func() {
			history, err := client.OpenHistory(b.Context(), notes, 0)
			require.NoError(t, err)
			b.start(history)
		}
		require.NoError(t, b.peers.SetRelays(b.Context(), nodeB))
		open()
		direct := func(n int) bool {
			handled, err := b.receiver.Direct(b.Context(), a.ServerName, "", fmt.Appendf(nil, `{"pdus":[{"n":%d}]}`, n), func(context.Context) error { return nil })
			require.NoError(t, err)
			return handled
		}
		const before = 2500 // more than are written at once
		for n := range before {
			require.True(t, direct(n))
		}
		require.Zero(t, notes.writes.Load())

		require.NoError(t, b.peers.SetRelays(b.Context(), nodeB, r1))
		notes.fails.Store(2)
		_, err := b.receiver.Direct(b.Context(), a.ServerName, "", []byte(`{"pdus":[{"n":2500}]}`), func(context.Context) error { return nil })
		require.Error(t, err, "it must come again: not all is written")
		require.True(t, direct(before))
		require.NoError(t, b.peers.SetRelays(b.Context(), nodeB))
		require.True(t, direct(before+1))
		open()
		for n := range before + 2 {
			b.leave(fmt.Sprint("y", n), n, r1)
		}
		require.NoError(t, b.peers.SetRelays(b.Context(), nodeB, r1))
		d := b.receiver.Sync(b.Context())[0]
		require.NoError(t, d.Err)
		require.Zero(t, d.Handled, "all are copies")
	})
}
