package relay_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
)

// Nobody else's mail.

func TestStrangerReadsNothing(t *testing.T) {
	r := newRig(t, nil)
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "1", 1, 100)))
	entry := r.peek(r.b, 0).EntryID

	for _, stranger := range []*relaytest.Node{r.a, r.c} {
		for _, id := range []int64{0, entry} {
			status, body := r.ask(stranger, r.b.ServerName, fmt.Sprintf(`{"entry_id":%d}`, id))
			requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
		}
	}
	// With another server's name on the request and its own key.
	forged := *r.c
	forged.ServerName = r.b.ServerName
	status, body := r.ask(&forged, r.b.ServerName, fmt.Sprintf(`{"entry_id":%d}`, entry))
	requireError(t, http.StatusUnauthorized, "M_UNAUTHORIZED", status, body)

	require.Equal(t, entry, r.peek(r.b, 0).EntryID, "nothing was acknowledged")
}

func TestStrangerAcknowledgesNothing(t *testing.T) {
	r := newRig(t, nil)
	require.NoError(t, r.send(r.a, r.a.Transaction(r.c.ServerName, "1", 1, 100)))
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "1", 1, 100)))
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "2", 1, 100)))
	require.NoError(t, r.send(r.a, r.a.Transaction(r.c.ServerName, "2", 1, 100)))
	first := r.peek(r.b, 0).EntryID

	own := r.peek(r.c, 0).EntryID
	for _, id := range []int64{first, first + 1, first - 1, first + 1000, 1<<53 - 1, 1<<63 - 1} {
		answer := r.peek(r.c, id)
		if id == own { // its own entry, after all
			own = answer.EntryID
			continue
		}
		require.Equal(t, own, answer.EntryID, "acknowledging %d of somebody else's removes nothing", id)
	}
	require.Len(t, r.fetch(r.b), 2)
}

func TestMadeUpNumbersAcknowledgeNothing(t *testing.T) {
	r := newRig(t, nil)
	for i := range 3 {
		require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, fmt.Sprint(i), 1, 100)))
	}
	first := r.peek(r.b, 0).EntryID
	second := r.peek(r.b, first).EntryID
	for _, id := range []int64{0, first, second + 1000, 1<<63 - 1} {
		require.Equal(t, second, r.peek(r.b, id).EntryID, "%d", id)
	}
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
