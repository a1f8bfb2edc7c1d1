package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/internal/pipes"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

const (
	testPaceBytes = 1000
	testPaceTime  = time.Second
)

// A pacedSite is a server that has a pace, and the way to it, in simulated time.
type pacedSite struct {
	*http.Transport
	pipes *pipes.Listener
	dials atomic.Int64
}

func onPacedSite(t *testing.T, handler http.HandlerFunc, test func(*testing.T, *pacedSite)) {
	synctest.Test(t, func(t *testing.T) {
		s := &pacedSite{pipes: pipes.Listen()}
		s.Transport = &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			s.dials.Add(1)
			return s.pipes.DialContext(ctx, network, address)
		}}
		server := &http.Server{Handler: paced{handler, testPaceBytes, testPaceTime}}
		go func() { _ = server.Serve(s.pipes) }() // ends with Close
		t.Cleanup(func() {
			s.CloseIdleConnections()
			assert.NoError(t, server.Close())
		})
		test(t, s)
	})
}

func (s *pacedSite) post(t *testing.T, body io.Reader) (*http.Response, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://relay/", body)
	require.NoError(t, err)
	return s.RoundTrip(request)
}

// TestSlowBody takes longer than the pace allows for one piece, but every
// piece comes in time.
func TestSlowBody(t *testing.T) {
	onPacedSite(t, func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		assert.Len(t, body, 20*testPaceBytes)
		// The answer after the body takes its own time.
		select {
		case <-r.Context().Done():
			t.Error("the request was given up while it was worked on")
		case <-time.After(2 * testPaceTime):
		}
	}, func(t *testing.T, s *pacedSite) {
		in, out := io.Pipe()
		go func() {
			for range 20 {
				time.Sleep(testPaceTime * 9 / 10)
				_, err := out.Write(make([]byte, testPaceBytes))
				assert.NoError(t, err)
			}
			assert.NoError(t, out.Close())
		}()
		response, err := s.post(t, in)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode)
	})
}

// TestDribblingBody sends a little all the time.
func TestDribblingBody(t *testing.T) {
	var failed error
	onPacedSite(t, func(_ http.ResponseWriter, r *http.Request) {
		_, failed = io.ReadAll(r.Body)
	}, func(t *testing.T, s *pacedSite) {
		in, out := io.Pipe()
		defer func() {
			require.NoError(t, in.Close())
			time.Sleep(testPaceTime) // until the goroutine has noticed
		}()
		go func() {
			for {
				if _, err := out.Write([]byte("x")); err != nil {
					return // the request is over
				}
				time.Sleep(testPaceTime / 20)
			}
		}()
		begin := time.Now()
		response, err := s.post(t, in)
		if err == nil {
			require.NoError(t, response.Body.Close())
		}
		require.Equal(t, testPaceTime, time.Since(begin))
		synctest.Wait()
		require.Error(t, failed)
	})
}

// TestStuckReader asks for an answer that it doesn't read.
func TestStuckReader(t *testing.T) {
	given := make(chan error, 1)
	onPacedSite(t, func(w http.ResponseWriter, _ *http.Request) {
		_, err := w.Write(make([]byte, 64<<20))
		given <- err
	}, func(t *testing.T, s *pacedSite) {
		connection, err := s.DialContext(t.Context(), "tcp", "relay:80")
		require.NoError(t, err)
		defer func() { _ = connection.Close() }()
		_, err = connection.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
		require.NoError(t, err)
		time.Sleep(testPaceTime + time.Millisecond)
		synctest.Wait()
		select {
		case err := <-given:
			require.Error(t, err)
		default:
			t.Error("the answer waits for a reader that doesn't read")
		}
	})
}

// TestConnectionIsUsedAgain after a pause that is longer than the pace.
func TestConnectionIsUsedAgain(t *testing.T) {
	onPacedSite(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(w, r.Body)
		assert.NoError(t, err)
	}, func(t *testing.T, s *pacedSite) {
		for range 2 {
			response, err := s.post(t, bytes.NewReader(make([]byte, 3*testPaceBytes+7)))
			require.NoError(t, err)
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Len(t, body, 3*testPaceBytes+7)
			time.Sleep(2 * testPaceTime)
		}
		require.EqualValues(t, 1, s.dials.Load())
	})
}

// TestWaitOutlastsPace waits for mail longer than anything that moves may take.
func TestWaitOutlastsPace(t *testing.T) {
	var server *relay.Server
	onPacedSite(t, func(w http.ResponseWriter, r *http.Request) { server.ServeHTTP(w, r) }, func(t *testing.T, s *pacedSite) {
		mail := memory.New(memory.Options{})
		var err error
		server, err = relay.New(relay.Config{ServerName: relayName, Store: mail})
		require.NoError(t, err)
		defer func() { assert.NoError(t, server.Close()); assert.NoError(t, mail.Close()) }()
		node := relaytest.NewNode("b")
		request, err := node.Request(http.MethodGet, relayName, wire.RelayTxnURI(relaytest.User(node.ServerName))+"?limit=1&timeout=2500", fclient.RelayEntry{})
		require.NoError(t, err)
		request.URL.Scheme = "http"
		begin := time.Now()
		require.Equal(t, wire.EmptyTaking, answerTo(s, request))
		require.Equal(t, 2500*time.Millisecond, time.Since(begin))
	})
}
