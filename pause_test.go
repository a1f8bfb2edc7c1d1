package relay_test

import (
	"context"
	"net/http"
	"net/http/httptest"
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
