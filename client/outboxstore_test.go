package client_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store"
)

// failingStore is a store whose Ack fails.
type failingStore struct {
	store.Store
	fail atomic.Bool
}

func (f *failingStore) Ack(ctx context.Context, d spec.ServerName, id int64) (int, error) {
	if f.fail.Load() {
		return 0, errors.New("disk")
	}
	return f.Store.Ack(ctx, d, id)
}

// A store that can't take off sent mail doesn't have it sent every second.
func TestOutboxStoreFails(t *testing.T) {
	f := &failingStore{}
	f.fail.Store(true)
	inOutWorld(t, func(c *client.OutboxConfig) { f.Store = c.Store; c.Store = f }, func(o *outWorld) {
		o.net.Set(b.ServerName, takes)
		o.enqueue("1")
		time.Sleep(24 * time.Hour)
		t.Log(o.net.Asked(b.ServerName))
		require.Less(t, o.net.Asked(b.ServerName), 300)
		f.fail.Store(false)
		time.Sleep(client.DefaultMostBackoff)
		require.Zero(t, o.queued(b.ServerName))
	})
}
