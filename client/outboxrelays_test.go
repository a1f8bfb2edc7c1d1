package client_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// Slow relays and a long queue don't keep a destination that is back waiting.
func TestOutboxSeenWhileRelaying(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		slow := takes
		slow.Latency = 5 * time.Second
		o.relays(slow, slow, slow)
		for i := range 500 {
			o.enqueue(fmt.Sprint(i))
		}
		time.Sleep(time.Minute)
		o.net.Set(b.ServerName, takes)
		o.outbox.Seen(b.ServerName)
		start := time.Now()
		for o.queued(b.ServerName) > 0 && time.Since(start) < 3*time.Hour {
			time.Sleep(time.Second)
		}
		t.Log(time.Since(start))
		require.Less(t, time.Since(start), 6*time.Minute)
	})
}

// One transaction that a relay refuses, while the others are dead, doesn't hold
// up the mail behind it.
func TestOutboxRelayRefusesAndOthersAreDead(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		var took atomic.Int32
		picky := relaytest.Host{Latency: 10 * time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			uri, _ := wire.SignedURI(r)
			route, err := wire.ParseURI(uri)
			if err == nil && route.TransactionID == "1" {
				wire.BadRequest(spec.ErrorBadJSON, "no").Write(w)
				return
			}
			took.Add(1)
			_, _ = w.Write([]byte(`{}`))
		})}
		o.relays(picky, relaytest.Host{}, relaytest.Host{})
		o.enqueue("1", "2", "3")
		time.Sleep(24 * time.Hour)
		require.EqualValues(t, 2, took.Load())
	})
}
