package client_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
)

// No mail that is kept for its destination is dropped for mail that has expired.
func TestOutboxTrimBesideExpiry(t *testing.T) {
	inOutWorld(t, func(c *client.OutboxConfig) {
		c.KeepRelayed = 10
		c.MaxAge = time.Hour
		c.Backoff.Most = 10 * time.Hour
		c.Backoff.First = 10 * time.Hour
	}, func(o *outWorld) {
		o.relays(takes, takes, takes)
		for i := range 10 {
			o.enqueue(fmt.Sprint(i))
		}
		time.Sleep(61 * time.Minute)
		for i := range 5 {
			o.enqueue(fmt.Sprint(i + 10))
			time.Sleep(time.Second)
		}
		require.Equal(t, 5, o.queued(b.ServerName))
	})
}

// Servers that say they are there, and don't answer, don't hold up the others.
func TestOutboxSeenLiars(t *testing.T) {
	inOutWorld(t, func(c *client.OutboxConfig) { c.Workers = 4 }, func(o *outWorld) {
		for i := range 40 {
			o.toDead(i)
		}
		for range 600 {
			for i := range 40 {
				o.outbox.Seen(spec.ServerName(fmt.Sprintf("dead%d", i)))
			}
			time.Sleep(time.Second)
		}
		o.net.Set(b.ServerName, takes)
		o.outbox.Seen(b.ServerName)
		o.enqueue("1")
		for range 30 {
			for i := range 40 {
				o.outbox.Seen(spec.ServerName(fmt.Sprintf("dead%d", i)))
			}
			time.Sleep(time.Second)
		}
		require.Equal(t, []string{"1 delivered"}, o.told())
	})
}

// Transactions that no relay nor server would take aren't taken.
func TestOutboxRefusesWhatCannotBeSent(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		for _, id := range []string{"", strings.Repeat("x", 256)} {
			made := transaction(t, "1")
			made.ID = gomatrixserverlib.TransactionID(id)
			require.Error(t, o.outbox.Enqueue(o.Context(), made))
		}
		made, err := client.NewTransaction(b.Transaction(b.ServerName, "1", 1, 100))
		require.NoError(t, err)
		require.Error(t, o.outbox.Enqueue(o.Context(), made), "another's")
	})
}

// A relay that passes on doesn't remember for ever all the servers that
// somebody made up.
func TestPassOnForgetsMadeUpServers(t *testing.T) {
	skipIfShort(t)
	inPassWorld(t, func(w *passWorld) {
		r := w.passer("r1", everything)
		server, err := relay.New(relay.Config{ServerName: r.name, Store: r.kept, Lifetime: time.Hour, Stored: r.outbox.Stored, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		w.net.Set(r.name, relaytest.Host{Handler: server})
		caller, err := client.NewCaller(client.CallerConfig{Identity: a.SigningIdentity, Transport: w.net})
		require.NoError(t, err)
		for i := range 100 {
			made, err := client.NewTransaction(a.Transaction(spec.ServerName(fmt.Sprintf("made-up%d", i)), "1", 1, 100))
			require.NoError(t, err)
			require.NoError(t, caller.Send(w.Context(), r.name, made))
		}
		time.Sleep(48 * time.Hour)
		require.Zero(t, r.left())
		require.Empty(t, r.peers.OfflineServers())
		require.NoError(t, server.Close())
	})
}
