package relaytest_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
)

// TestServer closes web servers while Bob waits for mail at a relay for five
// minutes, which the test doesn't have.
func TestServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	asked := make(chan struct{}, 10)
	mail := memory.New(memory.Options{})
	box, err := relay.New(relay.Config{
		ServerName: boxName, Store: mail, Keys: relaytest.Keys(),
		Asked: func(spec.ServerName) { asked <- struct{}{} },
	})
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.Handle("/_matrix/federation/v1/relay_txn/", box)
	for _, test := range []struct {
		name     string
		handler  http.Handler
		answered bool
	}{{"mounted", mux, false}, {"alone", box, true}} {
		server, err := relaytest.NewServer(test.handler)
		require.NoError(t, err)
		network := relaytest.NewNetwork()
		network.Set(boxName, relaytest.Host{Address: server.Address})
		answered := make(chan error, 1)
		go func() { answered <- fetch(ctx, network) }()
		<-asked
		require.NoError(t, server.Close())
		require.NoError(t, server.Close(), "again")
		err = <-answered
		require.NoError(t, ctx.Err(), "it ended by itself")
		require.Equal(t, test.answered, err == nil, "%s: %v", test.name, err)
		require.NoError(t, network.Close())
	}
	require.NoError(t, box.Close())
	require.NoError(t, mail.Close())
}

// TestAddress breaks the connection to a web server while its answer is read.
func TestAddress(t *testing.T) {
	server, err := relaytest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		echo(w, r)
		if r.Method == http.MethodPut {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	}))
	require.NoError(t, err)
	network := relaytest.NewNetwork()
	network.Set(place, relaytest.Host{Address: server.Address})
	got, err := ask(t.Context(), network, alice)
	require.NoError(t, err)
	require.Equal(t, echoed, got)

	r, err := alice.Request(http.MethodPut, place, "/", nil)
	require.NoError(t, err)
	response, err := network.RoundTrip(r)
	require.NoError(t, err)
	network.SetOffline(place, true)
	_, err = io.ReadAll(response.Body)
	require.Error(t, err)
	require.NoError(t, response.Body.Close())
	require.NoError(t, network.Close())
	require.NoError(t, server.Close())
}
