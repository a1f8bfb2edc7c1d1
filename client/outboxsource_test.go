package client_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// A frozen store's clock stands still, even if the clock of the machine moves:
// the test sets the rest of a lifetime.
type frozen struct {
	*memory.Store
	left atomic.Int64 // a time.Duration; 0: as it was put
}

// Put implements store.Store.
func (f *frozen) Put(ctx context.Context, m store.Mail, l store.Limits) (bool, error) {
	f.left.CompareAndSwap(0, int64(m.Lifetime))
	m.Lifetime = 0
	return f.Store.Put(ctx, m, l)
}

// Next implements store.Store.
func (f *frozen) Next(ctx context.Context, d spec.ServerName, after int64, n int, bytes int64) ([]store.Entry, error) {
	entries, err := f.Store.Next(ctx, d, after, n, bytes)
	for i := range entries {
		entries[i].Lifetime = time.Duration(f.left.Load())
	}
	return entries, err
}

// The store tells the age of a transaction. The clock of the machine may
// be 40 days ahead, while the Outbox runs and between two runs.
func TestOutboxAgeIsTheStores(t *testing.T) {
	skipIfShort(t)
	kept := &frozen{}
	inOutWorld(t, func(c *client.OutboxConfig) {
		if kept.Store == nil {
			kept.Store = c.Store.(*memory.Store)
		}
		c.Store, c.MaxAge = kept, time.Hour
	}, func(o *outWorld) {
		o.enqueue("1", "2", "3")
		before := kept.left.Load()
		time.Sleep(2 * 24 * time.Hour)
		require.NoError(t, o.outbox.Close())
		o.open()
		time.Sleep(2 * 24 * time.Hour)
		require.Empty(t, o.told())
		require.Equal(t, 3, o.queued(b.ServerName))
		kept.left.Store(before - int64(time.Hour))
		time.Sleep(time.Hour)
		require.Equal(t, []string{"1 expired", "2 expired", "3 expired"}, o.told())
	})
}

// A destination that is seen isn't tried again and again while the store can't
// take off mail that was sent.
func TestOutboxStoreFailsWhileSeen(t *testing.T) {
	f := newFaulty(nil, 100, "Ack")
	inOutWorld(t, func(c *client.OutboxConfig) { f.notedStore = c.Store.(notedStore); c.Store = f }, func(o *outWorld) {
		o.net.Set(b.ServerName, takes)
		o.enqueue("1")
		for range 3600 {
			o.outbox.Seen(b.ServerName)
			time.Sleep(time.Second)
		}
		require.Less(t, o.net.Asked(b.ServerName), 30)
		f.percent.Store(0)
		time.Sleep(client.DefaultMostBackoff)
		require.Zero(t, o.queued(b.ServerName))
	})
}

// A listSource is a Source of an embedder's, in memory.
type listSource struct {
	client.Source
	mu      sync.Mutex
	items   []client.Item
	results []client.Result
}

func (s *listSource) Next(_ context.Context, to spec.ServerName, after int64) (client.Item, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, item := range s.items {
		if item.Destination == to && item.Position > after {
			return item, nil
		}
	}
	return client.Item{}, store.ErrEmpty
}

func (s *listSource) End(_ context.Context, _ spec.ServerName, position int64, result client.Result) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.items) > 0 && s.items[0].Position == position {
		s.items, s.results = s.items[1:], append(s.results, result)
	}
	return nil
}

func (s *listSource) add(item client.Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.items = append(s.items, item)
}

func (s *listSource) ends() []client.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.results)
}

func (s *listSource) Queued(context.Context, spec.ServerName) (int64, error) { return 0, nil }

func (s *listSource) Destinations(_ context.Context, after spec.ServerName, _ int) ([]spec.ServerName, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.items) == 0 || after >= b.ServerName {
		return nil, nil
	}
	return []spec.ServerName{b.ServerName}, nil
}

// An embedder's own Source is asked for transactions, and told of their ends. One
// that can't be signed ends, and holds up nothing.
func TestOutboxOwnSource(t *testing.T) {
	source := &listSource{}
	for i := range 3 {
		source.items = append(source.items, client.Item{Transaction: transaction(t, fmt.Sprint(i)), Position: int64(10 + i)})
	}
	source.items[1].Body = []byte(`{"pdus":[`)
	inOutWorld(t, func(c *client.OutboxConfig) { c.Source = source }, func(o *outWorld) {
		o.relays(takes, takes, takes)
		require.Error(t, o.outbox.Enqueue(o.Context(), transaction(o.T, "9")))
		time.Sleep(time.Minute)
		require.Equal(t, []string{"0 relayed", "2 relayed"}, o.told())
		o.net.Set(b.ServerName, takes)
		o.outbox.Seen(b.ServerName)
		time.Sleep(time.Second)
		require.Equal(t, []string{"0 delivered", "1 refused", "2 delivered"}, o.told())
		require.Equal(t, []client.Result{client.ResultDelivered, client.ResultRefused, client.ResultDelivered}, source.ends())
		source.add(client.Item{Transaction: transaction(t, "4"), Position: 20})
		o.outbox.Stored(b.ServerName)
		time.Sleep(time.Second)
		require.Equal(t, []string{"4 delivered"}, o.told())
	})
}
