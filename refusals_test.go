package relay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
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
		"long entry":        {"GET", "relay_txn/" + userB, `{"a":"` + strings.Repeat("x", 5000) + `"}`, 413, "M_TOO_LARGE"},
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

// Bodies that fclient would not send: signed as they are, or not at all.
func TestBodiesAsTheyCome(t *testing.T) {
	r := newRig(t, nil)
	uri := "/_matrix/federation/v1/send_relay/1/@user:" + string(r.b.ServerName)
	for name, c := range map[string]struct {
		body, contentType string
		status            int
		code              string
	}{
		"spaces":           {"{ \"pdus\": [ ] }\n", "application/json", 200, ""},
		"charset":          {`{"pdus":[]}`, "application/json; charset=utf-8", 200, ""},
		"no content type":  {`{"pdus":[]}`, "", 400, "M_NOT_JSON"},
		"other type":       {`{"pdus":[]}`, "text/plain", 400, "M_NOT_JSON"},
		"not JSON":         {`{"pdus":[`, "application/json", 400, "M_NOT_JSON"},
		"not UTF-8":        {"{\"pdus\":[\"\xff\"]}", "application/json", 400, "M_NOT_JSON"},
		"deep":             {strings.Repeat("[", 100000), "application/json", 400, "M_BAD_JSON"},
		"other content":    {`{"pdus":[{}]}`, "application/json", 401, "M_UNAUTHORIZED"},
		"nothing":          {``, "application/json", 401, "M_UNAUTHORIZED"},
		"nothing, no type": {``, "", 401, "M_UNAUTHORIZED"},
	} {
		request, err := r.a.Request(http.MethodPut, relayName, uri, json.RawMessage(`{"pdus":[]}`))
		require.NoError(t, err)
		request.Header.Set("Content-Type", c.contentType)
		request.Body, request.ContentLength = io.NopCloser(strings.NewReader(c.body)), int64(len(c.body))
		request.GetBody = nil
		status, body := r.do(request)
		require.Equal(t, c.status, status, "%s: %s", name, body)
		if c.status != 200 {
			requireError(t, c.status, c.code, status, body)
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
		c.Admit = func(_ context.Context, origin, destination spec.ServerName) error {
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
		}
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

// endless is a body that never ends, and counts what was taken of it.
type endless struct{ taken atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	e.taken.Add(int64(len(p)))
	return len(p), nil
}

func TestLargeBodies(t *testing.T) {
	const limit = 1 << 20
	r := newRig(t, func(c *relay.Config) { c.MaxBodyBytes = limit })
	uri := "/_matrix/federation/v1/send_relay/1/@user:" + string(r.b.ServerName)
	content := func(size int) json.RawMessage {
		head, tail := `{"pdus":[{"a":"`, `"}]}`
		return json.RawMessage(head + strings.Repeat("x", size-len(head)-len(tail)) + tail)
	}
	for size, want := range map[int]int{limit: 200, limit + 1: 413, relay.FirstRead: 200, relay.FirstRead - 1: 200, relay.FirstRead + 1: 200, 4 * relay.FirstRead: 200} {
		for _, chunked := range []bool{false, true} {
			request, err := r.a.Request(http.MethodPut, relayName, uri, content(size))
			require.NoError(t, err)
			require.EqualValues(t, size, request.ContentLength)
			if chunked {
				request.ContentLength, request.GetBody = -1, nil
			}
			status, body := r.do(request)
			require.Equal(t, want, status, "%d %v %s", size, chunked, body)
		}
	}
	// 64 MB are refused without being read, whether announced or not.
	for _, announced := range []int64{64 << 20, -1} {
		source := &endless{}
		request, err := r.a.Request(http.MethodPut, relayName, uri, json.RawMessage(`{}`))
		require.NoError(t, err)
		request.Body, request.ContentLength, request.GetBody = io.NopCloser(io.LimitReader(source, 64<<20)), announced, nil
		response, err := r.network.RoundTrip(request)
		if err == nil { // else the connection was closed while we were sending
			require.Equal(t, http.StatusRequestEntityTooLarge, response.StatusCode)
			require.NoError(t, response.Body.Close())
		}
		require.Less(t, source.taken.Load(), int64(32<<20))
	}
}

func TestFull(t *testing.T) {
	r := newRig(t, func(c *relay.Config) { c.MaxEntries, c.OriginShare = 4, 0.5 })
	for i := range 2 {
		require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, fmt.Sprint(i), 1, 100)))
	}
	status, body := r.put(r.a, "over", r.b.ServerName, `{"pdus":[]}`)
	requireError(t, http.StatusInsufficientStorage, "M_RESOURCE_LIMIT_EXCEEDED", status, body)
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "0", 1, 100)), "a copy needs no room")
	require.NoError(t, r.send(r.c, r.c.Transaction(r.b.ServerName, "0", 1, 100)), "another sender has its share")
	require.NoError(t, r.send(r.a, r.a.Transaction(r.c.ServerName, "0", 1, 100)), "another mailbox has room")
	require.Len(t, r.fetch(r.b), 3)
	status, _ = r.put(r.a, "over", r.b.ServerName, `{"pdus":[]}`)
	require.Equal(t, http.StatusOK, status)
}

// What no mailbox could ever hold is refused for good.
func TestLargerThanTheLimits(t *testing.T) {
	r := newRig(t, func(c *relay.Config) { c.MaxBytes = 1000 })
	status, body := r.put(r.a, "1", r.b.ServerName, string(largeContent(600)))
	requireError(t, http.StatusRequestEntityTooLarge, "M_TOO_LARGE", status, body)
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

func TestConfig(t *testing.T) {
	for name, config := range map[string]relay.Config{
		"no name":      {},
		"bad name":     {ServerName: "a b"},
		"share":        {ServerName: "a", OriginShare: 1.5},
		"not a number": {ServerName: "a", OriginShare: math.NaN()},
		"not local":    {ServerName: "a", IsLocalServerName: func(spec.ServerName) bool { return false }},
		"no directory": {ServerName: "a", DatabasePath: t.TempDir() + "/not/there.db"},
	} {
		_, err := relay.New(config)
		require.Error(t, err, name)
	}
}

// The Authorization header is read before the body: who has none isn't read.
func TestUnsignedIsNotRead(t *testing.T) {
	r := newRig(t, nil)
	source := &endless{}
	request, err := http.NewRequest(http.MethodPut, "matrix://"+relayName+"/_matrix/federation/v1/send_relay/1/@user:b", source)
	require.NoError(t, err)
	request.Header.Set("Expect", "100-continue")
	response, err := r.network.RoundTrip(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
	require.Zero(t, source.taken.Load())
}

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

type statusOnly struct{ status int }

func (s *statusOnly) Header() http.Header         { return http.Header{} }
func (s *statusOnly) Write(p []byte) (int, error) { return len(p), nil }
func (s *statusOnly) WriteHeader(status int)      { s.status = status }
