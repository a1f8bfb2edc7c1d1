package client_test

import (
	"context"
	"errors"
	"fmt"
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

// fewNotes take few changes at once, as those of JetStream do.
type fewNotes struct{ store.Store }

func (n fewNotes) Notes(ctx context.Context, prefix, after string, limit int) ([]store.Note, error) {
	return n.Store.(store.Notes).Notes(ctx, prefix, after, limit)
}

func (n fewNotes) SetNotes(ctx context.Context, changes []store.Note) error {
	if len(changes) > 800 {
		return fmt.Errorf("%d changes of notes at once", len(changes))
	}
	return n.Store.(store.Notes).SetNotes(ctx, changes)
}

// An Outbox opens, however many notes of no use a crash has left.
func TestOutboxWithManyOldNotes(t *testing.T) {
	inOutWorld(t, func(c *client.OutboxConfig) {
		for i := range 1000 {
			note := store.Note{Key: fmt.Sprint("outbox/gone.example/r", i), Value: []byte("{}")}
			require.NoError(t, c.Store.(store.Notes).SetNotes(t.Context(), []store.Note{note}))
		}
		c.Store = fewNotes{c.Store}
	}, func(o *outWorld) {
		o.net.Set(b.ServerName, takes)
		o.enqueue("1")
		time.Sleep(time.Minute)
		require.Zero(t, o.queued(b.ServerName))
	})
}
