package relay_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/freeport"
	"github.com/matrixrelay/relay/internal/need"
	"github.com/matrixrelay/relay/relaytest"
)

const cachingProxy = `
daemon off;
master_process off;
error_log error.log;
pid nginx.pid;
events {}
http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	proxy_cache_path cache keys_zone=all:1m;
	server {
		listen %s;
		proxy_cache all;
		proxy_cache_valid 200 1m;
		location / { proxy_pass http://%s; }
		location /control/ { proxy_pass http://%s; }
	}
}
`

// startCachingProxy runs nginx in front of a relay, and returns its address.
// What is below /control/ goes to another server.
func startCachingProxy(t *testing.T, relay, control string) string {
	t.Helper()
	program, directory := need.Program(t, "nginx"), t.TempDir()
	address := fmt.Sprint("127.0.0.1:", freeport.Find(t, 1)[0])
	file := filepath.Join(directory, "nginx.conf")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, cachingProxy, address, relay, control), 0o600))
	command := exec.Command(program, "-p", directory, "-c", file)
	command.Stderr = os.Stderr
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill() // it may have failed to start
		_ = command.Wait()
	})
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	}, generous, 10*time.Millisecond)
	return address
}

// A proxy that caches every GET hands nobody the mail of another, and keeps no
// acknowledgement from the relay.
func TestBehindACachingProxy(t *testing.T) {
	r := newRig(t, nil)
	var reached atomic.Int64
	control := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reached.Add(1)
		_, _ = w.Write([]byte("{}")) // the test sees whether it comes
	}))
	defer control.Close()
	proxy := startCachingProxy(t, r.address, control.Listener.Addr().String())
	r.network = relaytest.NewNetwork()
	r.network.Set(relayName, relaytest.Host{Address: proxy})
	t.Cleanup(r.network.CloseIdleConnections)
	for range 3 {
		response, err := http.Get("http://" + proxy + "/control/")
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode)
	}
	require.EqualValues(t, 1, reached.Load(), "the proxy caches what may be cached")

	require.Empty(t, r.fetch(r.b), "an empty mailbox mustn't stay empty")
	for i := range 3 {
		require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, fmt.Sprint(i), 1, 100)))
	}
	require.True(t, r.peek(r.b, 0).EntriesQueued)
	status, body := r.ask(r.c, r.b.ServerName, `{"entry_id":0}`)
	requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
	response, err := http.Get("http://" + proxy + "/_matrix/federation/v1/relay_txn/@user:" + string(r.b.ServerName))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)

	require.Len(t, r.fetch(r.b), 3)
	usage, err := r.store.Usage(t.Context(), r.b.ServerName)
	require.NoError(t, err)
	require.Zero(t, usage.Entries, "every acknowledgement arrived")
}
