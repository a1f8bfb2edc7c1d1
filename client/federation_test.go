package client_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
)

// A stub is a FederationClient of an embedder's test, which has the methods that
// a homeserver calls and no others.
type stub struct {
	fclient.FederationClient // nil, as in many tests

	real fclient.FederationClient
}

func newStub(real fclient.FederationClient) stub { return stub{real: real} }

func (s stub) SendTransaction(ctx context.Context, t gomatrixserverlib.Transaction) (fclient.RespSend, error) {
	return s.real.SendTransaction(ctx, t)
}

func (s stub) P2PSendTransactionToRelay(ctx context.Context, u spec.UserID, t gomatrixserverlib.Transaction, relay spec.ServerName) (fclient.EmptyResp, error) {
	return s.real.P2PSendTransactionToRelay(ctx, u, t, relay)
}

func (s stub) P2PGetTransactionFromRelay(ctx context.Context, u spec.UserID, prev fclient.RelayEntry, relay spec.ServerName) (fclient.RespGetRelayTransaction, error) {
	return s.real.P2PGetTransactionFromRelay(ctx, u, prev, relay)
}

// withFederation has the Node use a homeserver's client.
func withFederation(federation func(http.RoundTripper) fclient.FederationClient) func(*client.NodeConfig) {
	return func(c *client.NodeConfig) {
		c.Caller.Federation, c.Transport = federation(c.Transport), nil
	}
}

// A homeserver's own client waits at relays, too, as long as its time-out lets it.
func TestFederationWaits(t *testing.T) {
	for timeout, most := range map[time.Duration]int{30 * time.Second: 260, 5 * time.Minute: 80} {
		inNodeWorld(t, withFederation(func(transport http.RoundTripper) fclient.FederationClient {
			ids := []*fclient.SigningIdentity{&a.SigningIdentity}
			return fclient.NewFederationClient(ids, fclient.WithTransport(transport), fclient.WithTimeout(timeout))
		}), func(w *nodeWorld) {
			w.relay(r1)
			w.setRelays(a.ServerName, r1)
			time.Sleep(10 * time.Second)
			w.leave(r1, "1")
			time.Sleep(time.Millisecond)
			require.Equal(t, []string{"1"}, w.fetched(), "it waited")
			before := w.net.Asked(r1)
			time.Sleep(time.Hour)
			require.LessOrEqual(t, w.net.Asked(r1)-before, most)
			w.leave(r1, "2")
			time.Sleep(2 * time.Second)
			require.Equal(t, []string{"1", "2"}, w.fetched())
		})
	}
}

// Other implementations are used as deployed homeservers use them.
func TestFederationStub(t *testing.T) {
	inNodeWorld(t, withFederation(func(transport http.RoundTripper) fclient.FederationClient {
		return newStub(a.Federation(transport))
	}), func(w *nodeWorld) {
		w.relay(r1)
		w.relay(r2)
		w.setRelays(a.ServerName, r1)
		w.setRelays(b.ServerName, r2)
		w.leave(r1, "1", "2")
		w.enqueue("1", "2")
		time.Sleep(time.Hour)
		require.Len(t, w.fetched(), 2)
		require.Equal(t, []string{"1 relayed", "2 relayed"}, w.told())
		require.Less(t, w.net.Asked(r1), 100, "it polls")
		home := w.net.AddHomeserver(b.ServerName)
		w.node.Seen(b.ServerName)
		time.Sleep(time.Second)
		require.Equal(t, []string{"1 delivered", "2 delivered"}, w.told())
		require.Len(t, home.Sent(), 2)
		require.Equal(t, a.ServerName, home.Sent()[0].Origin)

		config := w.config()
		config.Receiver.RequireProof = true
		_, err := client.OpenNode(w.Context(), config)
		require.ErrorContains(t, err, "RequireProof needs a Caller with a Transport")
		caller, err := client.NewCaller(client.CallerConfig{Identity: a.SigningIdentity, Federation: newStub(a.Federation(w.net))})
		require.NoError(t, err)
		sender, err := client.NewSender(client.SenderConfig{Caller: caller, Peers: client.NewPeers()})
		require.NoError(t, err)
		_, err = client.OpenOutbox(w.Context(), client.OutboxConfig{Sender: sender, Store: w.mail, PassOn: everything})
		require.ErrorContains(t, err, "PassOn needs a Caller with a Transport")
	})
}

// The answer that a redirect leads to doesn't count, since the signature isn't for it.
func TestFederationRedirected(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		network := relaytest.NewNetwork()
		network.Set(r1, relaytest.Host{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "matrix://r2/")
			w.WriteHeader(status)
		})})
		network.Set(r2, relaytest.Host{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{}`)
		})})
		caller, err := client.NewCaller(client.CallerConfig{Identity: a.SigningIdentity, Federation: a.Federation(network)})
		require.NoError(t, err)
		require.Error(t, caller.Send(t.Context(), r1, transaction(t, "1")))
		require.NoError(t, caller.Send(t.Context(), r2, transaction(t, "1")))
		require.NoError(t, network.Close())
	}
}
