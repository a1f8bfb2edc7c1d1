package client_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store"
)

// A store that can't take off sent mail doesn't have it sent every second.
func TestOutboxStoreFails(t *testing.T) {
	f := newFaulty(nil, 100, "Ack")
	inOutWorld(t, func(c *client.OutboxConfig) { f.notedStore = c.Store.(notedStore); c.Store = f }, func(o *outWorld) {
		o.net.Set(b.ServerName, takes)
		o.enqueue("1")
		time.Sleep(24 * time.Hour)
		t.Log(o.net.Asked(b.ServerName))
		require.Less(t, o.net.Asked(b.ServerName), 300)
		f.percent.Store(0)
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
