package wire

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"
)

func TestParseURI(t *testing.T) {
	const send, get = Prefix + "send_relay/", Prefix + "relay_txn/"
	long := "@" + strings.Repeat("a", 255) + ":b"
	for uri, want := range map[string]struct {
		id          gomatrixserverlib.TransactionID
		destination spec.ServerName
		status      int
		code        spec.MatrixErrorCode
	}{
		send + "1/@user:b":               {id: "1", destination: "b"},
		send + "1/%40user%3Ab":           {id: "1", destination: "b"},
		send + "1/@a%2Fb=c:b":            {id: "1", destination: "b"},
		send + "1/@User+%21:b:8448":      {id: "1", destination: "b:8448"},
		send + "1/@user:[::1]:8448":      {id: "1", destination: "[::1]:8448"},
		send + "1/@user:%5B::1%5D":       {id: "1", destination: "[::1]"},
		send + "1/@user:B":               {id: "1", destination: "B"},
		send + "a%2Fb/@user:b":           {id: "a/b", destination: "b"},
		send + "1/@user:b?limit=1":       {id: "1", destination: "b"},
		get + "@user:b":                  {destination: "b"},
		get + "@user:b?x=/":              {destination: "b"},
		get + "%40user:b":                {destination: "b"},
		get:                              {status: 400, code: "M_INVALID_USERNAME"},
		get + "user:b":                   {status: 400, code: "M_INVALID_USERNAME"},
		get + "@user":                    {status: 400, code: "M_INVALID_USERNAME"},
		get + "@user:":                   {status: 400, code: "M_INVALID_USERNAME"},
		get + "@user:b%00":               {status: 400, code: "M_INVALID_USERNAME"},
		get + "@user:b c":                {status: 400, code: "M_INVALID_USERNAME"},
		get + "@user:b%2F..%2Fc":         {status: 400, code: "M_INVALID_USERNAME"},
		get + "@us%ZZer:b":               {status: 400, code: "M_INVALID_USERNAME"},
		get + long:                       {status: 400, code: "M_INVALID_USERNAME"},
		send + "1/user":                  {status: 400, code: "M_INVALID_USERNAME"},
		send + "/@user:b":                {status: 400, code: "M_INVALID_PARAM"},
		send + "%ZZ/@user:b":             {status: 400, code: "M_INVALID_PARAM"},
		send + "@user:b":                 {status: 404, code: "M_UNRECOGNIZED"},
		send + "1/2/@user:b":             {status: 404, code: "M_UNRECOGNIZED"},
		get + "@a/b:b":                   {status: 404, code: "M_UNRECOGNIZED"},
		get + "@user:b/":                 {status: 404, code: "M_UNRECOGNIZED"},
		Prefix + "relay_txn":             {status: 404, code: "M_UNRECOGNIZED"},
		Prefix + "send/1":                {status: 404, code: "M_UNRECOGNIZED"},
		Prefix:                           {status: 404, code: "M_UNRECOGNIZED"},
		"/_matrix/federation/v2/x":       {status: 404, code: "M_UNRECOGNIZED"},
		"":                               {status: 404, code: "M_UNRECOGNIZED"},
		"//" + Prefix + "relay_txn/@a:b": {status: 404, code: "M_UNRECOGNIZED"},
	} {
		r, err := ParseURI(uri)
		if want.status == 0 {
			require.NoError(t, err, uri)
			require.Equal(t, want.id, r.TransactionID, uri)
			require.Equal(t, want.destination, r.Destination(), uri)
			continue
		}
		var e *Error
		require.ErrorAs(t, err, &e, uri)
		require.Equal(t, want.status, e.Status, uri)
		require.Equal(t, want.code, e.Code, uri)
	}
}

func TestSignedURI(t *testing.T) {
	const path = "/_matrix/federation/v1/relay_txn/@a%2Fb:c?x=%2f"
	var got string
	var ok bool
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got, ok = SignedURI(r) })

	handler.ServeHTTP(nil, httptest.NewRequest("GET", path, nil))
	require.True(t, ok)
	require.Equal(t, path, got)

	http.StripPrefix("/_matrix/federation/v1", handler).ServeHTTP(nil, httptest.NewRequest("GET", path, nil))
	require.Equal(t, path, got)

	http.StripPrefix("/proxied", handler).ServeHTTP(nil, httptest.NewRequest("GET", "/proxied"+path, nil))
	require.Equal(t, path, got)

	handler.ServeHTTP(nil, httptest.NewRequest("GET", "http://relay.example"+path, nil))
	require.Equal(t, path, got)

	u, err := url.Parse("matrix://relay.example" + path)
	require.NoError(t, err)
	handler.ServeHTTP(nil, &http.Request{URL: u})
	require.Equal(t, path, got)

	handler.ServeHTTP(nil, httptest.NewRequest("GET", "/other?x=/_matrix/federation/v1/relay_txn/a", nil))
	require.False(t, ok)
}

func TestURIs(t *testing.T) {
	user, err := UserAt("[::1]:8448")
	require.NoError(t, err)
	r, err := ParseURI(SendRelayURI("a/b?c%d", user))
	require.NoError(t, err)
	require.Equal(t, Route{Endpoint: SendRelay, TransactionID: "a/b?c%d", User: user}, r)
	r, err = ParseURI(RelayTxnURI(user))
	require.NoError(t, err)
	require.Equal(t, Route{Endpoint: RelayTxn, User: user}, r)
	r, err = ParseURI(RelaysURI("[::1]:8448"))
	require.NoError(t, err)
	require.Equal(t, Route{Endpoint: Relays, Server: "[::1]:8448"}, r)
	require.EqualValues(t, "[::1]:8448", r.Destination())
	for _, name := range []spec.ServerName{"", "a b", "a/b", spec.ServerName(strings.Repeat("a", 300))} {
		_, err = UserAt(name)
		require.Error(t, err, name)
	}
}

func FuzzParseURI(f *testing.F) {
	f.Add(Prefix + "send_relay/1/@user:b")
	f.Add(Prefix + "send_relay/a%2Fb/%40a%2Fb%3Ac?x=1")
	f.Add(Prefix + "relay_txn/@user:[::1]:8448")
	f.Add("/x" + Prefix + "relay_txn/%")
	f.Add(RelaysURI("[::1]:8448") + "?x")
	f.Add(MailboxURI)
	f.Add(AskReceiptsURI("b", 7))
	f.Add(Prefix + "send_relay/1/@user:b" + ReceiptsQuery(7))
	f.Add(Prefix + "relay_txn/@user:b?ids=5,9&bodies=0")
	f.Fuzz(func(t *testing.T, raw string) {
		uri, ok := SignedURI(&http.Request{RequestURI: raw})
		if !ok {
			return
		}
		require.True(t, strings.HasPrefix(uri, Prefix) || strings.HasPrefix(uri, Unstable))
		r, err := ParseURI(uri)
		if err != nil {
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Contains(t, []int{400, 404}, e.Status)
			return
		}
		if r.Destination() == "" {
			require.Equal(t, Route{Endpoint: r.Endpoint}, r)
			return
		}
		_, _, valid := spec.ParseAndValidateServerName(r.Destination())
		require.True(t, valid)
		again := RelayTxnURI(r.User)
		switch r.Endpoint {
		case SendRelay:
			again = SendRelayURI(r.TransactionID, r.User)
			if r.Query.Receipts {
				again += ReceiptsQuery(r.Query.After)
			}
		case RelayTxn:
			again += r.Query.Encode()
		case Receipts:
			again = AskReceiptsURI(r.Server, r.Query.After)
		case Relays:
			again = RelaysURI(r.Server)
		}
		same, err := ParseURI(again)
		require.NoError(t, err, again)
		require.Equal(t, r, same)
	})
}
