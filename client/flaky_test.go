package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

var errFlaky = errors.New("flaky")

// A flaky store fails now and then, before or after doing its work.
type flaky struct {
	*memory.Store
	rate atomic.Int32 // percent
}

func (f *flaky) fails() bool { return rand.Int32N(100) < f.rate.Load() }

func (f *flaky) Put(ctx context.Context, m store.Mail, l store.Limits) (bool, error) {
	if f.fails() {
		return false, errFlaky
	}
	ok, err := f.Store.Put(ctx, m, l)
	if f.fails() {
		return false, errFlaky
	}
	return ok, err
}

func (f *flaky) Next(ctx context.Context, d spec.ServerName, after int64, n int, b int64) ([]store.Entry, error) {
	if f.fails() {
		return nil, errFlaky
	}
	return f.Store.Next(ctx, d, after, n, b)
}

func (f *flaky) Ack(ctx context.Context, d spec.ServerName, id int64) (int, error) {
	if f.fails() {
		return 0, errFlaky
	}
	n, err := f.Store.Ack(ctx, d, id)
	if f.fails() {
		return 0, errFlaky
	}
	return n, err
}

func (f *flaky) Usage(ctx context.Context, d spec.ServerName) (store.Usage, error) {
	if f.fails() {
		return store.Usage{}, errFlaky
	}
	return f.Store.Usage(ctx, d)
}

func (f *flaky) SetNotes(ctx context.Context, c []store.Note) error {
	if f.fails() {
		return errFlaky
	}
	return f.Store.SetNotes(ctx, c)
}

// Though everything fails now and then, all that was enqueued arrives, in order, and
// nothing is dropped that neither the destination nor a relay has.
func TestOutboxOnFlakyStore(t *testing.T) {
	for range seeds.Rounds(10, 2) {
		f := &flaky{}
		f.rate.Store(10)
		inOutWorld(t, func(c *client.OutboxConfig) {
			f.Store = c.Store.(*memory.Store)
			c.Store = f
			c.KeepRelayed = 20
			c.Backoff = client.Backoff{First: time.Second, Most: 5 * time.Second}
		}, func(o *outWorld) {
			direct, atRelays := []string{}, map[string]bool{}
			record := func(keep func(string), bad int) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					id := r.URL.Path[len(wire.Prefix):]
					switch n := rand.IntN(100); {
					case n < bad/2:
						w.WriteHeader([]int{500, 429, 404, 403}[rand.IntN(4)])
					case n < bad:
						keep(id)
						w.WriteHeader(502)
					default:
						keep(id)
						_, _ = w.Write([]byte(`{}`))
					}
				})
			}
			o.relays(relaytest.Host{Latency: time.Millisecond, Handler: record(func(id string) { atRelays[id] = true }, 50)}, relaytest.Host{}, relaytest.Host{})
			here := relaytest.Host{Latency: time.Millisecond, Handler: record(func(id string) {
				if len(direct) == 0 || direct[len(direct)-1] != id {
					direct = append(direct, id)
				}
			}, 40)}
			want := []string{}
			for i := range 300 {
				made := transaction(t, fmt.Sprint(i))
				for o.outbox.Enqueue(o.Context(), made) != nil {
					time.Sleep(time.Millisecond)
				}
				want = append(want, fmt.Sprint("send/", i))
				switch rand.IntN(20) {
				case 0:
					o.net.Set(b.ServerName, here)
					o.outbox.Seen(b.ServerName)
				case 1:
					o.net.Set(b.ServerName, relaytest.Host{})
				case 2:
					f.rate.Store(0)
					require.NoError(t, o.outbox.Close())
					o.mail = f.Store
					o.open()
					f.rate.Store(10)
				}
				time.Sleep(time.Duration(rand.IntN(2000)) * time.Millisecond)
			}
			o.net.Set(b.ServerName, here)
			for range 600 {
				time.Sleep(10 * time.Second)
				if o.queued(b.ServerName) == 0 {
					break
				}
			}
			require.Zero(t, o.queued(b.ServerName))
			next := 0
			for i, id := range want {
				if next < len(direct) && direct[next] == id {
					next++
					continue
				}
				found := false
				for r := range atRelays {
					found = found || len(r) > 11 && r[:len("send_relay/")+len(fmt.Sprint(i))+1] == fmt.Sprintf("send_relay/%d/", i)
				}
				require.True(t, found, "%s is nowhere", id)
			}
			require.Equal(t, len(direct), next, "in order")
		})
	}
}
