package relay_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/wire"
)

func TestRefusals(t *testing.T) {
	r := newRig(t, nil)
	const v1 = "/_matrix/federation/v1/"
	userB := "@user:" + string(r.b.ServerName)
	pdus := func(n int) string { return `{"pdus":[` + strings.TrimSuffix(strings.Repeat("{},", n), ",") + `]}` }
	edus := func(n int) string {
		return `{"edus":[` + strings.TrimSuffix(strings.Repeat("{},", n), ",") + `],"pdus":[]}`
	}
	for name, c := range map[string]struct {
		method, uri, content string
		status               int
		code                 string
	}{
		"50 PDUs":           {"PUT", "send_relay/50/" + userB, pdus(50), 200, ""},
		"51 PDUs":           {"PUT", "send_relay/51/" + userB, pdus(51), 400, "M_BAD_JSON"},
		"100 EDUs":          {"PUT", "send_relay/100/" + userB, edus(100), 200, ""},
		"101 EDUs":          {"PUT", "send_relay/101/" + userB, edus(101), 400, "M_BAD_JSON"},
		"PDU is null":       {"PUT", "send_relay/1/" + userB, `{"pdus":[null]}`, 400, "M_BAD_JSON"},
		"PDU is a list":     {"PUT", "send_relay/1/" + userB, `{"pdus":[{},[]]}`, 400, "M_BAD_JSON"},
		"EDU is null":       {"PUT", "send_relay/1/" + userB, `{"edus":[null],"pdus":[]}`, 400, "M_BAD_JSON"},
		"to upper case":     {"PUT", "send_relay/1/" + strings.ToUpper(userB), `{"pdus":[]}`, 400, "M_INVALID_USERNAME"},
		"to anybody's key":  {"PUT", "send_relay/1/@user:01" + strings.Repeat("00", 31), `{"pdus":[]}`, 400, "M_INVALID_USERNAME"},
		"of upper case":     {"GET", "relay_txn/" + strings.ToUpper(userB), `{"entry_id":0}`, 400, "M_INVALID_USERNAME"},
		"no PDUs":           {"PUT", "send_relay/1/" + userB, `{}`, 400, "M_BAD_JSON"},
		"a list":            {"PUT", "send_relay/1/" + userB, `[]`, 400, "M_BAD_JSON"},
		"no user":           {"PUT", "send_relay/1/" + string(r.b.ServerName), `{"pdus":[]}`, 400, "M_INVALID_USERNAME"},
		"no server":         {"PUT", "send_relay/1/@user", `{"pdus":[]}`, 400, "M_INVALID_USERNAME"},
		"missing segment":   {"PUT", "send_relay/" + userB, `{"pdus":[]}`, 404, "M_UNRECOGNIZED"},
		"one segment more":  {"PUT", "send_relay/1/2/" + userB, `{"pdus":[]}`, 404, "M_UNRECOGNIZED"},
		"other path":        {"PUT", "send/1", `{"pdus":[]}`, 404, "M_UNRECOGNIZED"},
		"POST send_relay":   {"POST", "send_relay/1/" + userB, `{"pdus":[]}`, 405, "M_UNRECOGNIZED"},
		"GET send_relay":    {"GET", "send_relay/1/" + userB, `{"pdus":[]}`, 405, "M_UNRECOGNIZED"},
		"PUT relay_txn":     {"PUT", "relay_txn/" + userB, `{"entry_id":0}`, 405, "M_UNRECOGNIZED"},
		"fetch":             {"GET", "relay_txn/" + userB, `{"entry_id":0}`, 200, ""},
		"negative entry":    {"GET", "relay_txn/" + userB, `{"entry_id":-1}`, 400, "M_BAD_JSON"},
		"entry is a text":   {"GET", "relay_txn/" + userB, `{"entry_id":"1"}`, 400, "M_BAD_JSON"},
		"entry is no whole": {"GET", "relay_txn/" + userB, `{"entry_id":1.5}`, 400, "M_BAD_JSON"},
		"fetch for no user": {"GET", "relay_txn/user", `{"entry_id":0}`, 400, "M_INVALID_USERNAME"},
		"long entry":        {"GET", "relay_txn/" + userB, `{"a":"` + strings.Repeat("x", wire.MaxFetchBytes) + `"}`, 413, "M_TOO_LARGE"},
	} {
		signer := r.a
		if c.method == "GET" {
			signer = r.b
		}
		request, err := signer.Request(c.method, relayName, v1+c.uri, json.RawMessage(c.content))
		require.NoError(t, err, name)
		status, body := r.do(request)
		require.Equal(t, c.status, status, "%s: %s", name, body)
		if c.status != 200 {
			requireError(t, c.status, c.code, status, body)
		}
	}
	require.Len(t, r.fetch(r.b), 2)
}

func TestMethodNotAllowedNamesTheMethod(t *testing.T) {
	r := newRig(t, nil)
	for uri, method := range map[string]string{
		"/_matrix/federation/v1/send_relay/1/@user:b": "PUT", "/_matrix/federation/v1/relay_txn/@user:b": "GET",
	} {
		for _, other := range []string{"HEAD", "POST", "DELETE", "OPTIONS"} {
			request, err := http.NewRequest(other, "matrix://"+relayName+uri, nil)
			require.NoError(t, err)
			response, err := r.network.RoundTrip(request)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Equal(t, http.StatusMethodNotAllowed, response.StatusCode)
			require.Equal(t, method, response.Header.Get("Allow"))
		}
	}
}

func TestOff(t *testing.T) {
	r := newRig(t, func(c *relay.Config) { c.Disabled = true })
	require.False(t, r.server.Enabled())
	status, body := r.put(r.a, "1", r.b.ServerName, `{"pdus":[]}`)
	requireError(t, http.StatusNotFound, "M_UNRECOGNIZED", status, body)
	r.server.SetEnabled(true)
	status, _ = r.put(r.a, "1", r.b.ServerName, `{"pdus":[]}`)
	require.Equal(t, http.StatusOK, status)
	r.server.SetEnabled(false)
	status, body = r.ask(r.b, r.b.ServerName, `{"entry_id":0}`)
	requireError(t, http.StatusNotFound, "M_UNRECOGNIZED", status, body)
	r.server.SetEnabled(true)
	require.Len(t, r.fetch(r.b), 1, "mail is kept while relaying is off")
}

func TestAdmit(t *testing.T) {
	r := newRig(t, func(c *relay.Config) {
		c.Policy = policy.Func(func(_ context.Context, origin, destination spec.ServerName) error {
			switch {
			case strings.HasPrefix(string(destination), "not-here"):
				return wire.Forbidden("this relay doesn't act for " + string(destination))
			case strings.HasPrefix(string(destination), "slow"):
				return &wire.Error{Status: 429, Code: "M_LIMIT_EXCEEDED", Message: "slow down", RetryAfter: 3 * time.Second}
			case strings.HasPrefix(string(destination), "broken"):
				return errors.New("database at 10.0.0.3: secret")
			case strings.HasPrefix(string(destination), "odd"):
				return &wire.Error{Status: 200}
			case strings.HasPrefix(string(destination), "nil"):
				return (*wire.Error)(nil)
			}
			return nil
		})
	})
	for _, name := range []spec.ServerName{"broken.example", "odd.example", "nil.example"} {
		status, body := r.put(r.a, "1", name, `{"pdus":[]}`)
		requireError(t, http.StatusInternalServerError, "M_UNKNOWN", status, body)
		require.NotContains(t, body, "secret")
	}
	status, body := r.put(r.a, "1", "not-here.example", `{"pdus":[]}`)
	requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
	status, body = r.put(r.a, "1", "slow.example", `{"pdus":[]}`)
	requireError(t, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", status, body)
	require.Contains(t, body, `"retry_after_ms":3000`)
	status, _ = r.put(r.a, "1", r.b.ServerName, `{"pdus":[]}`)
	require.Equal(t, http.StatusOK, status)
	require.Len(t, r.fetch(r.b), 1)
}

// endless is a body that never ends, and counts the bytes that were read of it.
type endless struct{ taken atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	e.taken.Add(int64(len(p)))
	return len(p), nil
}

// The Authorization header is read before the body: if nothing can be signed so, the
// body isn't read.
func TestUnsignedIsNotRead(t *testing.T) {
	r := newRig(t, nil)
	header := func(signature, destination string) string {
		return fmt.Sprintf(`X-Matrix origin="%s",key="ed25519:1",sig="%s",destination="%s"`, r.a.ServerName, signature, destination)
	}
	for name, authorization := range map[string]string{
		"none":      "",
		"zero":      header(strings.Repeat("A", 86), relayName),
		"too short": header("AAAA", relayName),
		"other's":   header(strings.Repeat("B", 85)+"A", "other.example"),
	} {
		source := &endless{}
		request, err := http.NewRequest(http.MethodPut, "matrix://"+relayName+"/_matrix/federation/v1/send_relay/1/@user:b", source)
		require.NoError(t, err)
		request.Header.Set("Expect", "100-continue")
		if authorization != "" {
			request.Header.Set("Authorization", authorization)
		}
		response, err := r.network.RoundTrip(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusUnauthorized, response.StatusCode, name)
		require.Zero(t, source.taken.Load(), name)
	}
}
