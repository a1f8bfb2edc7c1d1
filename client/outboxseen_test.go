package client_test

import (
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
)

// Two nodes that can't take each other's mail, and tell their Outbox of each
// other's requests, don't go at each other without a pause.
func TestOutboxesThatSeeEachOther(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		var theirs *client.Outbox
		host := func(seen func()) relaytest.Host {
			return relaytest.Host{Latency: 10 * time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				seen()
				w.WriteHeader(500)
			})}
		}
		caller, err := client.NewCaller(client.CallerConfig{Identity: b.SigningIdentity, Transport: o.net})
		require.NoError(t, err)
		sender, err := client.NewSender(client.SenderConfig{Caller: caller, Peers: client.NewPeers(), Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		kept := memory.New(memory.Options{})
		theirs, err = client.OpenOutbox(t.Context(), client.OutboxConfig{Sender: sender, Store: kept, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		o.net.Set(b.ServerName, host(func() { theirs.Seen(a.ServerName) }))
		o.net.Set(a.ServerName, host(func() { o.outbox.Seen(b.ServerName) }))
		made, err := client.NewTransaction(b.Transaction(a.ServerName, "x", 1, 100))
		require.NoError(t, err)
		require.NoError(t, theirs.Enqueue(t.Context(), made))
		o.enqueue("1")
		time.Sleep(time.Minute)
		t.Log(o.net.Asked(b.ServerName))
		require.Less(t, o.net.Asked(b.ServerName), 150)
		require.NoError(t, theirs.Close())
		require.NoError(t, sender.Close())
	})
}

// A server that is seen is tried at once, before all others that are to be tried.
func TestOutboxSeenInTheQueue(t *testing.T) {
	inOutWorld(t, func(c *client.OutboxConfig) { c.Workers = 4 }, func(o *outWorld) {
		for i := range 40 {
			o.toDead(i)
		}
		o.enqueue("1")
		time.Sleep(time.Second)
		o.net.Set(b.ServerName, takes)
		o.outbox.Seen(b.ServerName)
		time.Sleep(time.Second)
		require.Equal(t, []string{"1 delivered"}, o.told())
	})
}
