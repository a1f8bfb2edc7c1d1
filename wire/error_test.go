package wire

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestErrorRoundTrip(t *testing.T) {
	w := httptest.NewRecorder()
	(&Error{Status: 429, Code: "M_LIMIT_EXCEEDED", Message: "slow", RetryAfter: 1500 * time.Millisecond}).Write(w)
	require.Equal(t, "2", w.Header().Get("Retry-After"))
	e := ParseError(w.Code, w.Header(), w.Body.Bytes())
	require.Equal(t, &Error{Status: 429, Code: "M_LIMIT_EXCEEDED", Message: "slow", RetryAfter: 1500 * time.Millisecond}, e)
	require.Equal(t, "429 M_LIMIT_EXCEEDED: slow", e.Error())

	e = ParseError(502, http.Header{"Retry-After": {"3"}}, []byte(`<html>`))
	require.Equal(t, &Error{Status: 502, RetryAfter: 3 * time.Second}, e)
	for _, body := range []string{`{"retry_after_ms":-5}`, `{"retry_after_ms":null}`, `null`, ``} {
		require.Zero(t, ParseError(429, nil, []byte(body)).RetryAfter, body)
	}
	require.Equal(t, 24*time.Hour, ParseError(429, nil, []byte(`{"retry_after_ms":1e300}`)).RetryAfter)
}

// Servers and proxies give Retry-After in seconds or as a date.
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const date = "Tue, 04 Aug 2026 10:00:00 GMT" // of an answer; our clock is at the year 2000
		for _, c := range []struct {
			value, date string
			want        time.Duration
		}{
			{"3", "", 3 * time.Second},
			{"2.5", date, 2500 * time.Millisecond},
			{"0", "", 0},
			{"-3", "", 0},
			{"99999999999999999999", "", 24 * time.Hour},
			{"1e300", "", 24 * time.Hour},
			{"1e400", "", 0},
			{"inf", "", 0},
			{"-inf", "", 0},
			{"nan", "", 0},
			{"soon", date, 0},
			{"", date, 0},
			{"Tue, 04 Aug 2026 10:02:00 GMT", date, 2 * time.Minute},
			{"Tuesday, 04-Aug-26 10:02:00 GMT", date, 2 * time.Minute},
			{"Tue Aug  4 10:02:00 2026", date, 2 * time.Minute},
			{"Tue, 04 Aug 2026 10:00:00 GMT", date, 0},
			{"Tue, 04 Aug 2026 09:00:00 GMT", date, 0},
			{"Thu, 01 Jan 1970 00:00:00 GMT", date, 0},
			{"Fri, 31 Dec 9999 23:59:59 GMT", date, 24 * time.Hour},
			{"Sat, 01 Jan 2000 00:02:00 GMT", "", 2 * time.Minute},
			{"Sat, 01 Jan 2000 00:02:00 GMT", "now", 2 * time.Minute},
			{"Fri, 31 Dec 1999 23:59:00 GMT", "", 0},
			{"Tue, 04 Aug 2026 10:02:00 GMT", "", 24 * time.Hour},
		} {
			header := http.Header{"Retry-After": {c.value}, "Date": {c.date}}
			require.Equal(t, c.want, ParseError(503, header, nil).RetryAfter, "%+v", c)
		}
		both := http.Header{"Retry-After": {"7"}}
		require.Equal(t, 2*time.Second, ParseError(429, both, []byte(`{"retry_after_ms":2000}`)).RetryAfter)
		require.Equal(t, 7*time.Second, ParseError(429, both, []byte(`{"retry_after_ms":-1}`)).RetryAfter)
	})
}
