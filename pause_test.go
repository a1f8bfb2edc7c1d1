package relay_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// A request over its share gets its answer after half a second, as far as there are places;
// when the server ends, at once.
func TestOverShareWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refusal := wire.LimitExceeded("too much", time.Second)
		mail := memory.New(memory.Options{})
		server, err := relay.New(relay.Config{
			ServerName: relayName, Store: mail, MaxWaiting: 4, // and half as many pauses
			Policy: policy.Func(func(context.Context, spec.ServerName, spec.ServerName) error { return refusal }),
		})
		require.NoError(t, err)
		put := func(ctx context.Context) (status int) {
			r := httptest.NewRequest(http.MethodPut, "/_matrix/federation/v1/send_relay/1/@user:b", strings.NewReader("{}"))
			r.Header.Set("Authorization", `X-Matrix origin="stranger",key="ed25519:1",sig="AA"`)
			w := httptest.NewRecorder()
			server.ServeHTTP(w, r.WithContext(ctx))
			return w.Code
		}
		begin := time.Now()
		require.Equal(t, http.StatusTooManyRequests, put(t.Context()))
		require.Equal(t, time.Second/2, time.Since(begin))

		ctx, gone := context.WithTimeout(t.Context(), time.Second/4)
		defer gone()
		put(ctx)
		require.Equal(t, 3*time.Second/4, time.Since(begin), "a client that goes away isn't waited for")

		var held sync.WaitGroup
		for range 2 {
			held.Go(func() { put(t.Context()) })
		}
		synctest.Wait()
		put(t.Context())
		require.Equal(t, 3*time.Second/4, time.Since(begin), "there is no third place")

		refusal = wire.Forbidden("never")
		require.Equal(t, http.StatusForbidden, put(t.Context()))
		require.Equal(t, 3*time.Second/4, time.Since(begin), "other refusals aren't held")

		require.NoError(t, server.Close())
		held.Wait()
		require.Equal(t, 3*time.Second/4, time.Since(begin))
		require.NoError(t, server.Close())
		require.NoError(t, mail.Close())
	})
}

// pausable is a connection that can be paused, as those of a bounded.Listener.
type pausable struct {
	net.Conn
	longest time.Duration
}

func (p *pausable) CountFor(spec.ServerName) {}
func (p *pausable) Use(int)                  {}
func (p *pausable) Pause(d time.Duration)    { p.longest = max(p.longest, d) }

// Where the connection can be paused the refusal comes at once, and the more refusals an
// address gets, the longer are its pauses: 128 a second, on however many connections.
func TestRefusalsPauseTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mail := memory.New(memory.Options{})
		server, err := relay.New(relay.Config{
			ServerName: relayName, Store: mail,
			Policy: policy.Func(func(context.Context, spec.ServerName, spec.ServerName) error {
				return wire.LimitExceeded("too much", time.Second)
			}),
		})
		require.NoError(t, err)
		put := func(from string, c *pausable) {
			r := httptest.NewRequest(http.MethodPut, "/_matrix/federation/v1/send_relay/1/@user:b", strings.NewReader("{}"))
			r.Header.Set("Authorization", `X-Matrix origin="stranger",key="ed25519:1",sig="AA"`)
			r.RemoteAddr = from + ":1"
			w := httptest.NewRecorder()
			server.ServeHTTP(w, r.WithContext(relay.ConnContext(t.Context(), c)))
			require.Equal(t, http.StatusTooManyRequests, w.Code)
		}
		began := time.Now()
		longest := func(from string) time.Duration {
			c := &pausable{}
			put(from, c)
			return c.longest
		}
		require.Equal(t, time.Second/2, longest("192.0.2.1"))
		for range 2*128 - 1 {
			longest("192.0.2.1")
		}
		require.Equal(t, 5*time.Second/2, longest("192.0.2.1"))
		require.Equal(t, time.Second/2, longest("192.0.2.2"), "others don't pay for it")
		for range 20 * 128 {
			longest("192.0.2.1")
		}
		require.Equal(t, 10*time.Second, longest("192.0.2.1"))
		require.Zero(t, time.Since(began), "no refusal was held")
		time.Sleep(time.Minute)
		require.Equal(t, time.Second/2, longest("192.0.2.1"))
		require.NoError(t, server.Close())
		require.NoError(t, mail.Close())
	})
}

// The connection of a proxy isn't paused, also if the proxy says that the request is its own
// or doesn't say whose it is: others' requests come on it.
func TestProxyIsNotPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mail := memory.New(memory.Options{})
		server, err := relay.New(relay.Config{
			ServerName: relayName, Store: mail,
			ClientAddress: relay.ProxiedAddress("X-Forwarded-For", netip.MustParsePrefix("127.0.0.0/8")),
			Policy: policy.Func(func(context.Context, spec.ServerName, spec.ServerName) error {
				return wire.LimitExceeded("too much", time.Second)
			}),
		})
		require.NoError(t, err)
		for _, from := range []string{"127.0.0.1", "unknown", "192.0.2.1"} {
			r := httptest.NewRequest(http.MethodPut, "/_matrix/federation/v1/send_relay/1/@user:b", strings.NewReader("{}"))
			r.Header.Set("Authorization", `X-Matrix origin="stranger",key="ed25519:1",sig="AA"`)
			r.Header.Set("X-Forwarded-For", from)
			r.RemoteAddr = "127.0.0.1:1"
			c, w, began := &pausable{}, httptest.NewRecorder(), time.Now()
			server.ServeHTTP(w, r.WithContext(relay.ConnContext(t.Context(), c)))
			require.Equal(t, http.StatusTooManyRequests, w.Code)
			require.Zero(t, c.longest, from)
			require.GreaterOrEqual(t, time.Since(began), time.Second/2, "the answer is held")
		}
		require.NoError(t, server.Close())
		require.NoError(t, mail.Close())
	})
}
