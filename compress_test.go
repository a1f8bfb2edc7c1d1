package relay_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// Lists are compressed for receivers that read that, and nothing else is.
func TestListsAreCompressed(t *testing.T) {
	r := newRig(t, nil)
	r.fill(50, 300)
	ask := func(query wire.Query, encoding string) (encoded string, body []byte) {
		signed, err := r.b.Request(http.MethodGet, relayName, wire.RelayTxnURI(relaytest.User(r.b.ServerName))+query.Encode(), wire.Fetch{})
		require.NoError(t, err)
		signed.Header.Set("Accept-Encoding", encoding)
		got := httptest.NewRecorder()
		r.server.ServeHTTP(got, signed)
		require.Equal(t, http.StatusOK, got.Code)
		return got.Header().Get("Content-Encoding"), got.Body.Bytes()
	}
	_, plain := ask(wire.Query{List: true, Limit: 50}, "")
	encoded, body := ask(wire.Query{List: true, Limit: 50}, "br, gzip")
	require.Equal(t, "gzip", encoded)
	require.Less(t, 2*len(body), len(plain))
	text, err := gzip.NewReader(bytes.NewReader(body))
	require.NoError(t, err)
	same, err := io.ReadAll(text)
	require.NoError(t, err)
	require.Equal(t, string(plain), string(same))
	for encoding, reads := range map[string]bool{
		"": false, "gzip": true, "br;q=1.0, GZIP;q=0.5": true, "identity, gzip;q=0": false, "gzip; q=0.000, br": false, "x-gzipped": false,
	} {
		encoded, _ = ask(wire.Query{List: true, Limit: 50}, encoding)
		require.Equal(t, reads, encoded == "gzip", encoding)
	}
	for _, query := range []wire.Query{{Limit: 50}, {List: true, Limit: 1}} {
		encoded, body = ask(query, "gzip")
		require.Empty(t, encoded)
		_, err = wire.ReadList(body)
		require.NoError(t, err)
	}
}

// A list, however short, doesn't cost a compressor of its own.
func TestCompressorsAreKept(t *testing.T) {
	r := newRig(t, nil)
	r.fill(20, 10)
	signed, err := r.b.Request(http.MethodGet, relayName, wire.RelayTxnURI(relaytest.User(r.b.ServerName))+wire.Query{List: true, Limit: 20}.Encode(), wire.Fetch{})
	require.NoError(t, err)
	signed.Header.Set("Accept-Encoding", "gzip")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		again := signed.Clone(t.Context())
		again.Body, err = signed.GetBody()
		require.NoError(t, err)
		got := httptest.NewRecorder()
		r.server.ServeHTTP(got, again)
		require.Equal(t, "gzip", got.Header().Get("Content-Encoding"))
	}
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(40<<20))
}
