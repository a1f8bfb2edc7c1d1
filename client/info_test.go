package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// An askedRelay remembers the requests that it got.
type askedRelay struct {
	http.Handler
	mute bool // it doesn't know info

	mu     sync.Mutex
	asked  []string
	limits []string // of batches
}

func (a *askedRelay) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.asked = append(a.asked, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/_matrix/federation/"))
	a.limits = append(a.limits, r.URL.Query().Get("limit"))
	a.mu.Unlock()
	if a.mute && r.URL.Path == wire.InfoURI {
		wire.Unrecognized().Write(w)
		return
	}
	a.Handler.ServeHTTP(w, r)
}

// take returns the methods and paths since the last time.
func (a *askedRelay) take() (asked []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked, a.asked = a.asked, nil
	return asked
}

func newAskedRelay(t *testing.T) (*askedRelay, map[string]*client.Caller) {
	kept := memory.New(memory.Options{})
	server, err := relay.New(relay.Config{ServerName: relayName, Store: kept, MaxBodyBytes: 2 << 20, MaxBatch: 7})
	require.NoError(t, err)
	asked := &askedRelay{Handler: server}
	network := serve(t, asked)
	t.Cleanup(func() { require.NoError(t, server.Close()); require.NoError(t, kept.Close()) })
	return asked, callers(t, a, network)
}

func TestInfo(t *testing.T) {
	_, all := newAskedRelay(t)
	info, err := all["transport"].Info(t.Context(), relayName)
	require.NoError(t, err)
	require.EqualValues(t, 2<<20, info.MaxBodyBytes)
	require.Equal(t, 7, info.MaxBatch)
	require.Equal(t, append(slices.Clone(wire.Extensions), wire.RecordsExtension, wire.ReceiptsExtension, wire.ListsExtension), info.Extensions)
	_, err = all["stub"].Info(t.Context(), relayName)
	require.Error(t, err)
}

// A transaction that a relay doesn't take isn't uploaded, and is refused as the relay would.
func TestTooLargeIsNotUploaded(t *testing.T) {
	skipIfShort(t)
	asked, all := newAskedRelay(t)
	caller := all["transport"]
	body := func(size int) client.Transaction {
		text, err := json.Marshal(map[string]any{"pdus": []any{}, "x": strings.Repeat("x", size)})
		require.NoError(t, err)
		return client.Transaction{ID: "1", Destination: b.ServerName, Body: text}
	}
	send := func(size int) error { return caller.Send(t.Context(), relayName, body(size)) }
	require.NoError(t, send(1000))
	require.Len(t, asked.take(), 1, "a small one costs no question")
	for range 2 {
		var e *wire.Error
		require.True(t, errors.As(send(3<<20), &e))
		require.Equal(t, http.StatusRequestEntityTooLarge, e.Status)
		require.Equal(t, wire.ErrorTooLarge, e.Code)
	}
	const question = "GET unstable/org.matrixrelay/info"
	require.Equal(t, []string{question, question}, asked.take(), "the limit may be another by now")
	require.NoError(t, send(2<<20-100))
	require.Len(t, asked.take(), 1)

	larger, err := relay.New(relay.Config{ServerName: relayName, Store: memory.New(memory.Options{}), MaxBodyBytes: 4 << 20})
	require.NoError(t, err)
	defer func() { require.NoError(t, larger.Close()) }()
	asked.Handler = larger
	require.NoError(t, send(3<<20))

	mute, all := newAskedRelay(t)
	mute.mute, caller = true, all["transport"]
	require.Error(t, send(3<<20), "it is uploaded, and refused")
	require.Len(t, mute.take(), 2)
	require.NoError(t, send(2<<20-100))
	require.Len(t, mute.take(), 1, "it isn't asked again for a while")
}

// A receiver asks for no larger batches than a relay has said that it gives.
func TestBatchesAsLargeAsSaid(t *testing.T) {
	asked, all := newAskedRelay(t)
	peers := client.NewPeers()
	require.NoError(t, peers.AddRelays(t.Context(), a.ServerName, relayName))
	receiver, err := client.NewReceiver(client.ReceiverConfig{
		Caller: all["transport"], Peers: peers, Handle: func(context.Context, client.Received) error { return nil },
	})
	require.NoError(t, err)
	limits := func() (limits []string) {
		require.NoError(t, receiver.Sync(t.Context())[0].Err)
		asked.mu.Lock()
		defer asked.mu.Unlock()
		limits, asked.limits = asked.limits, nil
		return limits
	}
	require.Equal(t, "100", limits()[0])
	_, err = all["transport"].Info(t.Context(), relayName)
	require.NoError(t, err)
	require.Equal(t, []string{"", "7"}, limits(), "info has none")
}

func TestNodeShowsInfo(t *testing.T) {
	skipIfShort(t)
	inNodeWorld(t, nil, func(w *nodeWorld) {
		w.relay(r1)
		w.setRelays(a.ServerName, r1)
		time.Sleep(time.Second)
		require.Nil(t, w.status().Relays[0].Info)
		info, err := w.node.RelayInfo(context.Background(), r1)
		require.NoError(t, err)
		require.Equal(t, &info, w.status().Relays[0].Info)
		require.EqualValues(t, relay.DefaultMaxBodyBytes, info.MaxBodyBytes)
		time.Sleep(25 * time.Hour)
		w.leave(r1, "1")
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, w.status().Relays[0].Fetched)
	})
}
