package main

import (
	"net/http"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNothingIsCached: no proxy keeps the program's answers, from any part that
// gives them.
func TestNothingIsCached(t *testing.T) {
	p := startIn(t, "", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--db", inMemory,
		"--name", "relay.example", "--signing-key", filepath.Join(t.TempDir(), "key.pem"))
	for url, status := range map[string]int{
		"http://" + p.address + keyPath:                                  http.StatusOK,
		"http://" + p.address + "/":                                      http.StatusNotFound,
		"http://" + p.address + "/_matrix/federation/v1/relay_txn/@a:b":  http.StatusUnauthorized,
		"http://" + p.address + "/_matrix/federation/v1/send_relay/1/@a": http.StatusMethodNotAllowed,
		"http://" + p.metrics + "/metrics":                               http.StatusOK,
		"http://" + p.metrics + "/healthz":                               http.StatusOK,
		"http://" + p.metrics + "/readyz":                                http.StatusOK,
		"http://" + p.address + "/readyz":                                http.StatusNotFound,
		"http://" + p.metrics + "/":                                      http.StatusNotFound,
	} {
		response, err := http.Get(url)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, status, response.StatusCode, url)
		require.Equal(t, "no-store", response.Header.Get("Cache-Control"), url)
	}
	p.stop()
}
