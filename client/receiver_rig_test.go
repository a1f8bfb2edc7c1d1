package client_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
)

// An inbox is node b, which receives from relays r1, r2 and r3 on a network in
// memory, in simulated time.
type inbox struct {
	*testing.T
	net      *relaytest.Network
	peers    *client.Peers
	mail     *memory.Store // notes of b
	receiver *client.Receiver
	change   func(*client.CallerConfig, *client.ReceiverConfig) // or nil

	mu      sync.Mutex
	handled []string // transaction: the number in the first PDU, or the EDU's type
	fail    func(client.Received) error
}

func inInbox(t *testing.T, run func(*inbox)) {
	synctest.Test(t, func(t *testing.T) {
		b := &inbox{T: t, net: relaytest.NewNetwork(), peers: client.NewPeers(), mail: memory.New(memory.Options{})}
		b.start(client.NewHistory(0))
		require.NoError(t, b.peers.AddRelays(b.Context(), nodeB, r1, r2, r3))
		run(b)
	})
}

// inOneInbox has r1 only, at which b needn't look first.
func inOneInbox(t *testing.T, run func(*inbox)) {
	inInbox(t, func(b *inbox) {
		require.NoError(t, b.peers.SetRelays(b.Context(), nodeB, r1))
		run(b)
	})
}

var nodeB = b.ServerName

func (b *inbox) start(history *client.History) {
	config := client.CallerConfig{Identity: relaytest.NewNode("b").SigningIdentity, Transport: b.net}
	receiver := client.ReceiverConfig{Peers: b.peers, History: history, Logger: slog.New(slog.DiscardHandler), Handle: b.handle}
	if b.change != nil {
		b.change(&config, &receiver)
	}
	var err error
	receiver.Caller, err = client.NewCaller(config)
	require.NoError(b, err)
	b.receiver, err = client.NewReceiver(receiver)
	require.NoError(b, err)
}

// restart starts b anew with another configuration.
func (b *inbox) restart(change func(*client.CallerConfig, *client.ReceiverConfig)) {
	b.change = change
	b.start(client.NewHistory(0))
}

func (b *inbox) handle(_ context.Context, got client.Received) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		if err := b.fail(got); err != nil {
			return err
		}
	}
	decoded, err := got.Decode()
	require.NoError(b, err)
	require.Equal(b, got.Origin, decoded.Origin)
	if len(decoded.EDUs) > 0 {
		b.handled = append(b.handled, decoded.EDUs[0].Type)
	} else {
		b.handled = append(b.handled, strings.TrimSuffix(strings.TrimPrefix(string(decoded.PDUs[0]), `{"n":`), `}`))
	}
	return nil
}

func (b *inbox) got() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.handled)
}

// relay puts a real one on the network.
func (b *inbox) relay(name spec.ServerName, change ...func(*relay.Config)) *relay.Server {
	config := relay.Config{ServerName: name, Store: memory.New(memory.Options{}), Logger: slog.New(slog.DiscardHandler)}
	for _, change := range change {
		change(&config)
	}
	server, err := relay.New(config)
	require.NoError(b, err)
	b.net.Set(name, relaytest.Host{Handler: server, Latency: 10 * time.Millisecond})
	return server
}

// leave leaves a transaction with these PDUs, or an EDU, for b at relays.
func (b *inbox) leave(id string, content any, relays ...spec.ServerName) {
	b.Helper()
	t := gomatrixserverlib.Transaction{TransactionID: gomatrixserverlib.TransactionID(id), Origin: a.ServerName, Destination: nodeB, OriginServerTS: spec.AsTimestamp(time.Now())}
	switch content := content.(type) {
	case int:
		t.PDUs = append(t.PDUs, fmt.Appendf(nil, `{"n":%d}`, content))
	case string:
		t.EDUs = []gomatrixserverlib.EDU{{Type: content}}
	}
	made, err := client.NewTransaction(t)
	require.NoError(b, err)
	sender, err := client.NewCaller(client.CallerConfig{Identity: a.SigningIdentity, Transport: b.net})
	require.NoError(b, err)
	for _, relay := range relays {
		require.NoError(b, sender.Send(b.Context(), relay, made))
	}
}

// sync returns the outcomes of draining r1, r2 and r3, as far as they are b's relays.
func (b *inbox) sync() (all [3]client.Drained) {
	b.Helper()
	copy(all[:], b.receiver.Sync(b.Context()))
	return all
}
