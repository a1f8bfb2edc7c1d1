package discovery

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// hexName is a name that no certificate can be for.
var hexName = strings.Repeat("a1", 32)

func (r *rig) getAt(server, address string) error {
	r.Helper()
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "matrix://"+server+"/x", nil)
	require.NoError(r, err)
	response, err := r.transport.RoundTripAt(request, address)
	if err == nil {
		require.NoError(r, response.Body.Close())
	}
	return err
}

// TestCertificateAt: the certificate is for the server's name, or for the address's host if
// there can be none for the name.
func TestCertificateAt(t *testing.T) {
	r := newRig(t)
	var host string
	r.handle = func(_ http.ResponseWriter, q *http.Request) { host = q.Host }
	r.zone.addresses["here.example"] = []string{"127.0.0.1"}
	at, byAddress := "https://here.example:"+r.port, "https://127.0.0.1:"+r.port
	require.NoError(t, r.getAt("relay.example", at))
	require.Equal(t, "relay.example", host)
	require.NoError(t, r.getAt("relay.example:1", byAddress))
	require.Equal(t, "relay.example:1", host)
	require.NoError(t, r.getAt(hexName, at))
	require.Equal(t, "here.example:"+r.port, host)
	require.NoError(t, r.getAt(hexName, byAddress))
	require.NoError(t, r.getAt("127.0.0.1", at))

	require.ErrorContains(t, r.getAt("elsewhere.org", at), "certificate")
	require.ErrorContains(t, r.getAt("127.0.0.9", at), "certificate")
	r.zone.addresses["here.org"] = []string{"127.0.0.1"}
	require.ErrorContains(t, r.getAt(hexName, "https://here.org:"+r.port), "certificate")
	require.NoError(t, r.getAt("relay.example", "https://here.org:"+r.port))
}

// TestPrivateAddressesAt: no address of a record leads to a private one, however it is
// spelt, or by a name that changes. Nobody is connected to.
func TestPrivateAddressesAt(t *testing.T) {
	r := newRig(t)
	r.handle = http.NotFound
	r.zone.addresses["private.example"] = []string{victimAddress}
	r.zone.addresses["changing.example"] = []string{victimAddress}
	r.zone.turns["changing.example"] = [][]string{{"127.0.0.1"}}
	require.NoError(t, r.getAt("relay.example", "https://changing.example:"+r.port), "it is public the first time")
	r.transport.CloseIdleConnections()
	for _, host := range []string{
		victimAddress, "127.1", "2130706434", "0x7f000002", "[::ffff:127.0.0.2]", "[::ffff:10.0.0.1]", "10.0.0.1", "[64:ff9b::a00:1]",
		"[200::1]", "[fd00::1]", "[::1]", "[fe80::1%25lo]", "private.example", "changing.example",
	} {
		for _, server := range []string{"relay.example", hexName} {
			require.Error(t, r.getAt(server, "https://"+host+":"+r.port), host)
		}
	}
	for _, host := range []string{victimAddress, "[::ffff:10.0.0.1]", "[64:ff9b::a00:1]", "[200::1]", "changing.example"} {
		require.ErrorIs(t, r.getAt(hexName, "https://"+host+":"+r.port), ErrPrivate, host)
	}
	require.Zero(t, r.reached.Load())
	r.transport.options.Private = true
	r.transport.allowed = New(Options{Private: true}).allowed
	require.NoError(t, r.getAt("relay.example", "https://private.example:"+r.port))
	require.Positive(t, r.reached.Load(), "the victim is there")
}

// TestRedirectAt: a redirect is an answer, and isn't followed.
func TestRedirectAt(t *testing.T) {
	r := newRig(t)
	r.handle = func(w http.ResponseWriter, q *http.Request) {
		http.Redirect(w, q, "https://"+victimAddress+":"+r.port+"/", http.StatusTemporaryRedirect)
	}
	request, err := http.NewRequest(http.MethodPut, "matrix://relay.example/x", strings.NewReader("x"))
	require.NoError(t, err)
	response, err := r.transport.RoundTripAt(request, "https://127.0.0.1:"+r.port)
	require.NoError(t, err)
	require.Equal(t, http.StatusTemporaryRedirect, response.StatusCode)
	require.NoError(t, response.Body.Close())
	require.Zero(t, r.reached.Load())
}

// TestOddAddresses: an address is https, a host and a port.
func TestOddAddresses(t *testing.T) {
	r := newRig(t)
	r.handle = http.NotFound
	for _, address := range []string{
		"", "https://", "https://:1", "http://127.0.0.1:" + r.port, "https://127.0.0.1:" + r.port + "/", "https://127.0.0.1:" + r.port + "/x",
		"https://u@127.0.0.1:" + r.port, "https://127.0.0.1:" + r.port + "?x", "https://127.0.0.1:" + r.port + "#x", "127.0.0.1:" + r.port, "%",
		"HTTPS://127.0.0.1:" + r.port,
	} {
		require.Error(t, r.getAt("relay.example", address), address)
	}
	closed := &closing{Reader: strings.NewReader("x")}
	for _, server := range []string{"https://relay.example/", "matrix://a_b!/"} {
		request, err := http.NewRequestWithContext(context.Background(), http.MethodPut, server, closed)
		require.NoError(t, err)
		_, err = r.transport.RoundTripAt(request, "https://127.0.0.1:"+r.port)
		require.Error(t, err, server)
	}
	require.Equal(t, 2, closed.count, "a transport closes what it doesn't send")
}

type closing struct {
	io.Reader
	count int
}

func (c *closing) Close() error { c.count++; return nil }
