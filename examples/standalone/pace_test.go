package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/internal/testnet"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

const (
	testPaceBytes = 1000
	testPaceTime  = time.Second
)

func pacedServer(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	server := httptest.NewServer(paced{handler, testPaceBytes, testPaceTime})
	t.Cleanup(server.Close)
	return server
}

// TestSlowBody takes longer than the pace allows for one piece, but every
// piece comes in time.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	server := pacedServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		assert.Len(t, body, 20*testPaceBytes)
		// What follows the body takes its own time.
		select {
		case <-r.Context().Done():
			t.Error("the request was given up while it was worked on")
		case <-time.After(2 * testPaceTime):
		}
	})
	in, out := io.Pipe()
	go func() {
		for range 20 {
			time.Sleep(testPaceTime / 5)
			_, err := out.Write(make([]byte, testPaceBytes))
			assert.NoError(t, err)
		}
		assert.NoError(t, out.Close())
	}()
	response, err := http.Post(server.URL, "", in)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)
}

// TestDribblingBody sends a little all the time.
func TestDribblingBody(t *testing.T) {
	t.Parallel()
	given := make(chan error, 1)
	server := pacedServer(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		given <- err
	})
	in, out := io.Pipe()
	go func() {
		for {
			if _, err := out.Write([]byte("x")); err != nil {
				return // the request is over
			}
			time.Sleep(testPaceTime / 20)
		}
	}()
	begin := time.Now()
	response, err := http.Post(server.URL, "", in)
	if err == nil {
		require.NoError(t, response.Body.Close())
	}
	require.Error(t, <-given)
	require.Less(t, time.Since(begin), 3*testPaceTime)
	require.NoError(t, in.Close())
}

// TestStuckReader asks for an answer that it doesn't read.
func TestStuckReader(t *testing.T) {
	t.Parallel()
	given := make(chan error, 1)
	server := pacedServer(t, func(w http.ResponseWriter, _ *http.Request) {
		_, err := w.Write(make([]byte, 64<<20))
		given <- err
	})
	connection, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	defer func() { _ = connection.Close() }()
	_, err = connection.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	require.NoError(t, err)
	select {
	case err := <-given:
		require.Error(t, err)
	case <-time.After(10 * testPaceTime):
		t.Fatal("the answer waits for a reader that doesn't read")
	}
}

// TestConnectionIsUsedAgain after a pause that is longer than the pace.
func TestConnectionIsUsedAgain(t *testing.T) {
	t.Parallel()
	server := pacedServer(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(w, r.Body)
		assert.NoError(t, err)
	})
	for range 2 {
		response, err := http.Post(server.URL, "", bytes.NewReader(make([]byte, 3*testPaceBytes+7)))
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Len(t, body, 3*testPaceBytes+7)
		time.Sleep(2 * testPaceTime)
	}
}

// TestWaitOutlastsPace waits for mail longer than anything that moves may take.
func TestWaitOutlastsPace(t *testing.T) {
	t.Parallel()
	mail := memory.New(memory.Options{})
	defer func() { assert.NoError(t, mail.Close()) }()
	server, err := relay.New(relay.Config{ServerName: relayName, Store: mail})
	require.NoError(t, err)
	defer func() { assert.NoError(t, server.Close()) }()
	web := pacedServer(t, server.ServeHTTP)
	network := testnet.NewNetwork(map[spec.ServerName]string{relayName: web.Listener.Addr().String()})
	defer network.CloseIdleConnections()
	node := testnet.NewNode("b")
	request, err := node.Request(http.MethodGet, relayName, wire.RelayTxnURI(testnet.User(node.ServerName))+"?limit=1&timeout=2500", fclient.RelayEntry{})
	require.NoError(t, err)
	begin := time.Now()
	require.Equal(t, wire.EmptyBatch, answerTo(network, request))
	require.Greater(t, time.Since(begin), 2*testPaceTime)
}
