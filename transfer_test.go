package relay_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
)

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

// A body that is refused as such is refused before its signature is checked.
func TestBodiesRefusedUnchecked(t *testing.T) {
	const limit = 1 << 20
	r := newRig(t, func(c *relay.Config) { c.MaxBodyBytes = limit })
	for name, c := range map[string]struct {
		body      io.Reader
		announced int64
		status    int
		code      string
	}{
		"a little too large": {io.LimitReader(&endless{}, limit+1), limit + 1, 413, "M_TOO_LARGE"},
		"not announced":      {&endless{}, -1, 413, "M_TOO_LARGE"},
		"breaks off":         {io.MultiReader(io.LimitReader(&endless{}, 5000), iotest.ErrReader(io.ErrUnexpectedEOF)), 6000, 408, "M_UNKNOWN"},
		"as large as may be": {io.LimitReader(&endless{}, limit), limit, 401, "M_UNAUTHORIZED"},
	} {
		request, err := r.a.Request(http.MethodPut, relayName, "/_matrix/federation/v1/send_relay/1/@user:b", json.RawMessage(`{}`))
		require.NoError(t, err)
		request.Body, request.ContentLength = io.NopCloser(io.MultiReader(strings.NewReader(`{"a":"`), c.body)), c.announced
		if c.status == 401 {
			request.Body = io.NopCloser(strings.NewReader(`{"a":"` + strings.Repeat("x", limit-8) + `"}`))
		}
		answer := httptest.NewRecorder()
		r.server.ServeHTTP(answer, request)
		require.Equal(t, c.status, answer.Code, name)
		requireError(t, c.status, c.code, answer.Code, answer.Body.String())
	}
}
