package client_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
)

// A proxy before a destination that is down is no word of the destination.
func TestOutboxProxySaysLater(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		o.relays(takes, takes, takes)
		o.net.Set(b.ServerName, relaytest.Host{Latency: time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "120")
			w.WriteHeader(503)
		})})
		o.enqueue("1")
		time.Sleep(time.Hour)
		require.Equal(t, []string{"1 relayed"}, o.told())
	})
}
