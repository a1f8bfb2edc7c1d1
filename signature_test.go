package relay_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
)

// FuzzAuthorization sends any header: never a panic, never a 200.
func FuzzAuthorization(f *testing.F) {
	f.Add(`X-Matrix origin="a",key="ed25519:1",sig="AAAA",destination="relay.example"`)
	f.Add(`X-Matrix origin=,,,===key`)
	f.Add(`X-Matrix `)
	r := newRig(f, nil)
	f.Fuzz(func(t *testing.T, header string) {
		request, err := http.NewRequest(http.MethodPut, "/_matrix/federation/v1/send_relay/1/@user:b", bytes.NewReader([]byte(`{"pdus":[]}`)))
		require.NoError(t, err)
		request.Header["Authorization"] = []string{header}
		request.Header.Set("Content-Type", "application/json")
		w := &statusOnly{}
		r.server.ServeHTTP(w, request)
		require.Contains(t, []int{http.StatusBadRequest, http.StatusUnauthorized}, w.status)
	})
}

// A name in another spelling has no mail of the first, and acknowledges nothing
// of it. Upper-case hex is no name at all: it would be a second mailbox, and a
// second share of every limit, for one key.
func TestOtherSpellings(t *testing.T) {
	r := newRig(t, nil)
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "1", 1, 100)))
	entry := r.peek(r.b, 0).EntryID
	upper := *r.b
	upper.ServerName = spec.ServerName(strings.ToUpper(string(r.b.ServerName)))
	acknowledge := fmt.Sprintf(`{"entry_id":%d}`, entry)

	for _, owner := range []spec.ServerName{r.b.ServerName + ":8448", r.b.ServerName + "."} {
		status, body := r.ask(r.b, owner, acknowledge)
		requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
	}
	for _, signer := range []*relaytest.Node{r.b, &upper} {
		status, body := r.ask(signer, upper.ServerName, acknowledge)
		requireError(t, http.StatusBadRequest, "M_INVALID_USERNAME", status, body)
		status, body = r.put(signer, "1", upper.ServerName, `{"pdus":[]}`)
		requireError(t, http.StatusBadRequest, "M_INVALID_USERNAME", status, body)
	}
	status, body := r.ask(&upper, r.b.ServerName, acknowledge)
	requireError(t, http.StatusUnauthorized, "M_UNAUTHORIZED", status, body)
	status, body = r.put(&upper, "2", r.b.ServerName, `{"pdus":[]}`)
	requireError(t, http.StatusUnauthorized, "M_UNAUTHORIZED", status, body)
	require.Equal(t, entry, r.peek(r.b, 0).EntryID)

	// The same name, escaped otherwise, is the same name.
	escaped := strings.ReplaceAll(string(r.b.ServerName), "a", "%61")
	request, err := r.b.Request(http.MethodGet, relayName, "/_matrix/federation/v1/relay_txn/%40user%3A"+escaped, fclient.RelayEntry{})
	require.NoError(t, err)
	status, body = r.do(request)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, `"entries_queued":true`)
}

// A request for one relay, or for one mailbox, is good for no other.
func TestSignatureIsForOneRequest(t *testing.T) {
	r := newRig(t, nil)
	uri := "/_matrix/federation/v1/send_relay/1/@user:" + string(r.b.ServerName)
	for name, change := range map[string]func(*http.Request){
		"other mailbox": func(q *http.Request) {
			q.URL.Path = strings.Replace(q.URL.Path, string(r.b.ServerName), string(r.c.ServerName), 1)
		},
		"other transaction": func(q *http.Request) { q.URL.Path = strings.Replace(q.URL.Path, "/1/", "/2/", 1) },
		"other user":        func(q *http.Request) { q.URL.Path = strings.Replace(q.URL.Path, "@user", "@other", 1) },
		"a query":           func(q *http.Request) { q.URL.RawQuery = "limit=1" },
		"other escaping":    func(q *http.Request) { q.URL.RawPath = strings.Replace(q.URL.Path, "@", "%40", 1) },
		"no signature":      func(q *http.Request) { q.Header.Del("Authorization") },
	} {
		request, err := r.a.Request(http.MethodPut, relayName, uri, map[string]any{"pdus": []any{}})
		require.NoError(t, err)
		change(request)
		status, body := r.do(request)
		require.Equal(t, http.StatusUnauthorized, status, "%s: %s", name, body)
	}
	request, err := r.a.Request(http.MethodPut, "other.example", uri, map[string]any{"pdus": []any{}})
	require.NoError(t, err)
	request.URL.Host = relayName
	status, body := r.do(request)
	requireError(t, http.StatusUnauthorized, "M_UNAUTHORIZED", status, body)
	require.Empty(t, r.fetch(r.b))
	require.Empty(t, r.fetch(r.c))
}

type statusOnly struct{ status int }

func (s *statusOnly) Header() http.Header         { return http.Header{} }
func (s *statusOnly) Write(p []byte) (int, error) { return len(p), nil }
func (s *statusOnly) WriteHeader(status int)      { s.status = status }
