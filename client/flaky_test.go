package client_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// Though everything fails now and then, all that was enqueued arrives, in order, and
// nothing is dropped that neither the destination nor a relay has.
func TestOutboxOnFlakyStore(t *testing.T) {
	for range seeds.Rounds(10, 2) {
		f := newFaulty(nil, 10, "")
		inOutWorld(t, func(c *client.OutboxConfig) {
			f.notedStore = c.Store.(notedStore)
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
					f.percent.Store(0)
					require.NoError(t, o.outbox.Close())
					o.mail = f.notedStore.(*memory.Store)
					o.open()
					f.percent.Store(10)
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
