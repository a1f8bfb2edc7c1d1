package relay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/internal/freeport"
	"github.com/matrixrelay/relay/internal/need"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
)

// No proxy may keep any answer.
func TestNoAnswerIsStored(t *testing.T) {
	var faulty *faultyStore
	r := newRig(t, func(c *relay.Config) {
		faulty = &faultyStore{Store: c.Store}
		c.Store, c.MaxBodyBytes, c.MaxEntries = faulty, 1<<20, 2
	})
	const v1 = "/_matrix/federation/v1/"
	userB := "@user:" + string(r.b.ServerName)
	large := `{"pdus":[{"a":"` + strings.Repeat("x", 1<<20) + `"}]}`
	for _, c := range []struct {
		status               int
		method, uri, content string
		before               func()
	}{
		{200, "GET", "relay_txn/" + userB, `{}`, nil},
		{200, "GET", "relay_txn/" + userB + "?limit=5", `{}`, nil},
		{200, "PUT", "send_relay/1/" + userB, `{"pdus":[]}`, nil},
		{200, "GET", "relay_txn/" + userB, `{}`, nil},
		{200, "GET", "relay_txn/" + userB + "?limit=5", `{}`, nil},
		{400, "PUT", "send_relay/1/" + userB, `{}`, nil},
		{400, "GET", "relay_txn/x", `{}`, nil},
		{401, "PUT", "send_relay/1/" + userB, "", nil},
		{403, "GET", "relay_txn/@user:b", `{}`, nil},
		{404, "PUT", "send_relay/x", `{}`, nil},
		{404, "GET", "elsewhere", `{}`, nil},
		{405, "POST", "relay_txn/" + userB, `{}`, nil},
		{413, "PUT", "send_relay/1/" + userB, large, nil},
		{507, "PUT", "send_relay/2/" + userB, `{"pdus":[]}`, nil},
		{500, "GET", "relay_txn/" + userB, `{}`, func() { faulty.next = errors.New("no") }},
		{404, "GET", "relay_txn/" + userB, `{}`, func() { r.server.SetEnabled(false) }},
		{503, "GET", "relay_txn/" + userB, `{}`, func() { require.NoError(t, r.server.Close()) }},
	} {
		if c.before != nil {
			c.before()
		}
		request, err := r.b.Request(c.method, relayName, v1+c.uri, json.RawMessage(`{"pdus":[]}`))
		require.NoError(t, err)
		if c.content == "" {
			request.Header.Del("Authorization")
		} else {
			request, err = r.b.Request(c.method, relayName, v1+c.uri, json.RawMessage(c.content))
			require.NoError(t, err)
		}
		answer := httptest.NewRecorder()
		r.server.ServeHTTP(answer, request)
		require.Equal(t, c.status, answer.Code, "%s %s: %s", c.method, c.uri, answer.Body)
		require.Equal(t, []string{"no-store"}, answer.Result().Header["Cache-Control"], "%s %s: %d", c.method, c.uri, c.status)
		require.Equal(t, "application/json", answer.Result().Header.Get("Content-Type"))
	}
}

// An answer repeats nothing that it was sent.
func TestErrorsAreShort(t *testing.T) {
	r := newRig(t, nil)
	long := strings.Repeat("x", 100_000)
	status, body := r.put(r.a, "1", r.b.ServerName, `{"origin":"`+long+`","pdus":[]}`)
	requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
	require.Less(t, len(body), 1000)
	status, body = r.put(r.a, long, r.b.ServerName, `{"pdus":[]}`)
	requireError(t, http.StatusBadRequest, "M_INVALID_PARAM", status, body)
	require.Less(t, len(body), 1000)
}

func TestStoreFails(t *testing.T) {
	var faulty *faultyStore
	r := newRig(t, func(c *relay.Config) {
		faulty = &faultyStore{Store: c.Store}
		c.Store = faulty
	})
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "1", 1, 100)))
	first := r.peek(r.b, 0).EntryID

	faulty.put = errors.New("the disk said something secret")
	status, body := r.put(r.a, "2", r.b.ServerName, `{"pdus":[]}`)
	requireError(t, http.StatusInternalServerError, "M_UNKNOWN", status, body)
	require.NotContains(t, body, "secret")

	faulty.ack = errors.New("no")
	status, body = r.ask(r.b, r.b.ServerName, fmt.Sprintf(`{"entry_id":%d}`, first))
	requireError(t, http.StatusInternalServerError, "M_UNKNOWN", status, body)
	faulty.ack, faulty.next = nil, errors.New("no")
	status, body = r.ask(r.b, r.b.ServerName, `{"entry_id":0}`)
	requireError(t, http.StatusInternalServerError, "M_UNKNOWN", status, body)
	faulty.next = nil
	require.Equal(t, first, r.peek(r.b, 0).EntryID)
}

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
// Requests below /control/ go to another server.
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

// A distrusted store refuses all mail.
type distrusted struct{ store.Store }

func (distrusted) Put(context.Context, store.Mail, store.Limits) (bool, error) {
	return false, fmt.Errorf("disk: %w", store.ErrReopen)
}

// A store that must be reopened has said so once; the relay says nothing more of
// it, however often it is asked.
func TestDistrustIsLoggedOnce(t *testing.T) {
	var said bytes.Buffer
	r := newRig(t, func(c *relay.Config) {
		c.Store = distrusted{c.Store}
		c.Logger = slog.New(slog.NewTextHandler(&said, nil))
	})
	for n := range 3 {
		err := r.send(r.a, r.a.Transaction(r.b.ServerName, fmt.Sprint(n), 1, 100))
		require.Error(t, err)
	}
	require.Empty(t, said.String())
}

// A request that fails because the caller has gone is no fault of ours, and isn't logged.
func TestCallerHasGone(t *testing.T) {
	var said bytes.Buffer
	registry := prometheus.NewRegistry()
	r := newRig(t, func(c *relay.Config) {
		c.Store = &faultyStore{Store: c.Store, next: context.Canceled}
		c.Logger, c.Registerer = slog.New(slog.NewTextHandler(&said, nil)), registry
	})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	request, err := r.b.Request(http.MethodGet, relayName, "/_matrix/federation/v1/relay_txn/@user:"+string(r.b.ServerName), json.RawMessage(`{"entry_id":0}`))
	require.NoError(t, err)
	r.server.ServeHTTP(httptest.NewRecorder(), request.WithContext(gone))
	require.Empty(t, said.String())
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP relay_requests_total Requests by endpoint and status.
# TYPE relay_requests_total counter
relay_requests_total{endpoint="relay_txn",status="499"} 1
`), "relay_requests_total"))
}
