package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrix"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/freeport"
	"github.com/matrixrelay/relay/relaytest"
)

func freeAddress(t *testing.T) string {
	return fmt.Sprint("127.0.0.1:", freeport.Find(t, 1)[0])
}

// requireStatus says that a request of fclient was answered so.
func requireStatus(t *testing.T, want int, err error) {
	t.Helper()
	answer := gomatrix.HTTPError{}
	require.ErrorAs(t, err, &answer)
	require.Equal(t, want, answer.Code, "%s", answer.Contents)
}

// requireDelivery sends one transaction and fetches it.
func requireDelivery(t *testing.T, transport http.RoundTripper) {
	t.Helper()
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	sent := a.Transaction(b.ServerName, "t1", 2, 500)
	require.NoError(t, put(t, transport, a, sent))
	got, err := get(t, transport, b, 0)
	require.NoError(t, err)
	require.True(t, got.EntriesQueued)
	require.Len(t, got.Transaction.PDUs, 2)
	got, err = get(t, transport, b, got.EntryID)
	require.NoError(t, err)
	require.False(t, got.EntriesQueued)
}

// TestFewestFlags uses the command line of the documentation, with another
// port.
func TestFewestFlags(t *testing.T) {
	directory, address := t.TempDir(), freeAddress(t)
	p := startIn(t, directory, "--listen", address, "--name", "relay", "--db", "relay.db")
	require.Equal(t, address, p.address)
	requireDelivery(t, p.network())
	assert.FileExists(t, filepath.Join(directory, "relay.db"))
	p.stop()
	assert.Equal(t, 1, strings.Count(p.logged(), "\n"), p.logged())
	assert.Contains(t, p.logged(), "name=relay")
}

func TestHelp(t *testing.T) {
	for _, flag := range []string{"-h", "--help"} {
		status, stdout, stderr := runToEnd(t, flag)
		require.Equal(t, 0, status)
		require.Empty(t, stderr)
		for _, name := range []string{
			"--listen", "--name", "--db", "--tls-cert", "--tls-key", "--for", "--for-file", "--mode", "--invite-key", "--promise", "--proxies",
			"--proxy-header", "--max-requests", "--max-traffic", "--max-stored", "--keys", "--metrics", "--max-body", "--max-in-flight",
			"--max-entries", "--max-bytes", "--origin-share", "--max-store", "--max-copies", "--lifetime", "--max-batch", "--max-wait", "--max-waiting", "--max-connections", "--signing-key", "--pass-on", "--relays-of", "--at",
			"relay serve --listen 127.0.0.1:9001 --name relay --db relay.db",
		} {
			require.Contains(t, stdout, name)
		}
	}
}

func TestWrongFlags(t *testing.T) {
	for _, test := range []struct {
		args string
		want string
	}{
		{"", "--name is required"},
		{"--name in_valid", "not a server name"},
		{"--name relay extra", `unexpected argument "extra"`},
		{"--name relay --nosuch", "--nosuch"},
		{"--name relay --tls-cert x", "need each other"},
		{"--name relay --tls-key x", "need each other"},
		{"--name relay --db=", "--db is empty"},
		{"--name relay --keys maybe", "--keys"},
		{"--name relay --for a,,b", "not a server name"},
		{"--name relay --mode secret", "--mode"},
		{"--name relay --mode closed", "needs --for"},
		{"--name relay --mode open --for a", "needs --for"},
		{"--name relay --mode invite", "need each other"},
		{"--name relay --invite-key k", "need each other"},
		{"--name relay --promise none", "can't be promised"},
		{"--name relay --promise 9GiB", "more than half"},
		{"--name relay --max-store-entries 4000", "more transactions"},
		{"--name relay --max-requests 0", "more than 0"},
		{"--name relay --max-copies 0", "more than 0"},
		{"--name relay --proxies 10.0.0.0/99", "prefix"},
		{"--name relay --max-body 0", "more than 0"},
		{"--name relay --max-body -1", "more than 0"},
		{"--name relay --max-body 10MB", "not a whole number"},
		{"--name relay --max-body 9999999999TiB", "too large"},
		{"--name relay --max-body none", "--max-in-flight none"},
		{"--name relay --max-body 100MiB", "--max-in-flight is less"},
		{"--name relay --max-entries 1.5", "not a whole number"},
		{"--name relay --origin-share 0", "--origin-share"},
		{"--name relay --origin-share NaN", "--origin-share"},
		{"--name relay --origin-share 1.01", "--origin-share"},
		{"--name relay --lifetime 30", "not a duration"},
		{"--name relay --lifetime -1h", "more than 0"},
		{"--name relay --lifetime 999999999999d", "too large"},
		{"--name relay --max-batch 0", "more than 0"},
		{"--name relay --max-wait 5", "not a duration"},
		{"--name relay --max-waiting many", "not a whole number"},
		{"--name relay --pass-on all", "--pass-on needs --signing-key"},
		{"--signing-key k --pass-on a,,b", "not a server name"},
		{"--signing-key k --relays-of b=r", "--relays-of needs --pass-on"},
		{"--signing-key k --at b=localhost:1", "--at needs --pass-on"},
		{"--signing-key k --pass-on a --relays-of b=r", "nothing is passed on for b"},
		{"--signing-key k --pass-on a --relays-of a", "no ="},
		{"--signing-key k --pass-on a --relays-of in_valid=r", "not a server name"},
		{"--signing-key k --pass-on a --relays-of a=in_valid", "not a server name"},
		{"--signing-key k --pass-on a --relays-of a=", "needs relays"},
		{"--signing-key k --pass-on a --relays-of a=r,a", "other than itself"},
		{"--signing-key k --pass-on a --at a=localhost", "not HOST:PORT"},
		{"--signing-key k --pass-on a --at a=:1", "not HOST:PORT"},
		{"--signing-key k --pass-on a --at a=h:1 --at a=h:2", "two addresses"},
	} {
		t.Run(test.args, func(t *testing.T) {
			status, stdout, stderr := runToEnd(t, strings.Fields(test.args)...)
			assert.Equal(t, 2, status)
			assert.Empty(t, stdout)
			assert.Contains(t, stderr, test.want)
			assert.Contains(t, stderr, "relay serve --help explains")
		})
	}
}

func TestWhatCantBeOpened(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	notDatabase := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(notDatabase, []byte(strings.Repeat("no database ", 1000)), 0o600))
	for _, args := range []string{
		"--listen " + taken.Addr().String(),
		"--listen 127.0.0.1:0 --metrics " + taken.Addr().String(),
		"--listen nonsense",
		"--listen 127.0.0.1:0 --db nosuch/relay.db",
		"--listen 127.0.0.1:0 --db " + notDatabase,
		"--listen 127.0.0.1:0 --tls-cert nosuch.pem --tls-key nosuch.pem",
	} {
		status, _, stderr := runToEnd(t, append([]string{"--name", "relay"}, strings.Fields(args)...)...)
		assert.Equal(t, 1, status, args)
		assert.Contains(t, stderr, "level=ERROR msg=failed", args)
	}
}

func TestSecondOnTheSameFile(t *testing.T) {
	db := database(t)
	p := start(t, "--db", db)
	status, _, stderr := runToEnd(t, "--listen", "127.0.0.1:0", "--name", "other", "--db", db)
	require.Equal(t, 1, status)
	require.Contains(t, stderr, "in use by another relay")
	requireDelivery(t, p.network())
}

func TestMailOutlivesTheProgram(t *testing.T) {
	db := database(t)
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	sent := a.Transaction(b.ServerName, "t1", 1, 500)
	p := start(t, "--db", db)
	require.NoError(t, put(t, p.network(), a, sent))
	p.stop()
	p = start(t, "--db", db)
	got, err := get(t, p.network(), b, 0)
	require.NoError(t, err)
	require.True(t, got.EntriesQueued)
	require.JSONEq(t, string(sent.PDUs[0]), string(got.Transaction.PDUs[0]))
}

func TestMemory(t *testing.T) {
	directory := t.TempDir()
	p := startIn(t, directory, "--listen", "127.0.0.1:0", "--name", "relay", "--db", "memory:")
	requireDelivery(t, p.network())
	p.stop()
	files, err := os.ReadDir(directory)
	require.NoError(t, err)
	require.Empty(t, files)
}

func TestFor(t *testing.T) {
	a, b, c, d := relaytest.NewNode("a"), relaytest.NewNode("b"), relaytest.NewNode("c"), relaytest.NewNode("d")
	p := start(t, "--db", database(t), "--mode", "closed", "--for", string(b.ServerName+", "+c.ServerName))
	require.NoError(t, put(t, p.network(), a, a.Transaction(b.ServerName, "t", 1, 300)))
	require.NoError(t, put(t, p.network(), a, a.Transaction(c.ServerName, "t", 1, 300)))
	requireStatus(t, http.StatusForbidden, put(t, p.network(), a, a.Transaction(d.ServerName, "t", 1, 300)))
}

func TestLimits(t *testing.T) {
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	p := start(t, "--db", database(t), "--max-body", "8KiB", "--max-entries", "4", "--origin-share", "0.5", "--max-bytes", "none")
	requireStatus(t, http.StatusRequestEntityTooLarge, put(t, p.network(), a, a.Transaction(b.ServerName, "large", 1, 9000)))
	require.NoError(t, put(t, p.network(), a, a.Transaction(b.ServerName, "t1", 1, 300)))
	require.NoError(t, put(t, p.network(), a, a.Transaction(b.ServerName, "t2", 1, 300)))
	requireStatus(t, http.StatusInsufficientStorage, put(t, p.network(), a, a.Transaction(b.ServerName, "t3", 1, 300)))
}

func TestMetrics(t *testing.T) {
	p := start(t, "--db", database(t), "--metrics", "127.0.0.1:0")
	requireDelivery(t, p.network())
	response, err := http.Get("http://" + p.metrics + "/metrics")
	require.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	assert.Contains(t, string(body), "relay_stored_total 1")
	assert.Contains(t, string(body), "go_goroutines")
	p.stop()
	_, err = http.Get("http://" + p.metrics + "/metrics")
	require.Error(t, err)
}

func TestTLS(t *testing.T) {
	cert, key, pool := certificate(t)
	p := start(t, "--db", database(t), "--tls-cert", cert, "--tls-key", key)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "relay.example"}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	requireDelivery(t, roundTripper(func(r *http.Request) (*http.Response, error) {
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host = "https", p.address
		return transport.RoundTrip(out)
	}))

	other, _, _ := certificate(t)
	status, _, stderr := runToEnd(t, "--listen", "127.0.0.1:0", "--name", "relay", "--tls-cert", other, "--tls-key", key)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "private key does not match public key")
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// certificate makes the files of a certificate, and a pool that trusts it.
func certificate(t *testing.T) (certFile, keyFile string, pool *x509.CertPool) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "relay.example"}, DNSNames: []string{"relay.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool = x509.NewCertPool()
	pool.AddCert(parsed)
	directory := t.TempDir()
	certFile, keyFile = filepath.Join(directory, "cert.pem"), filepath.Join(directory, "key.pem")
	require.NoError(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	return certFile, keyFile, pool
}
