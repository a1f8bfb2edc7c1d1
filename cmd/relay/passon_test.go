package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// TestPassOn has a node leave mail at one relay, and another find it at a
// second one, and then get it.
func TestPassOn(t *testing.T) {
	a, b, c, first := relaytest.NewNode("a"), relaytest.NewNode("b"), relaytest.NewNode("c"), relaytest.NewNode("first")
	bAddress := freeAddress(t)
	p2 := start(t, "--db", database(t))
	p1 := startIn(t, "", "--listen", "127.0.0.1:0", "--db", database(t), "--signing-key", keyFile(t, first),
		"--pass-on", string(b.ServerName), "--relays-of", string(b.ServerName+"="+relayName),
		"--at", string(b.ServerName)+"="+bAddress, "--at", string(relayName)+"="+p2.address, "--at", string(c.ServerName)+"="+p2.address)
	network := relaytest.NewNetwork()
	network.Set(first.ServerName, relaytest.Host{Address: p1.address})
	network.Set(relayName, relaytest.Host{Address: p2.address})
	t.Cleanup(network.CloseIdleConnections)
	sent := a.Transaction(b.ServerName, "t1", 2, 500)
	leave(t, network, a, first.ServerName, sent)
	leave(t, network, a, first.ServerName, a.Transaction(c.ServerName, "t2", 1, 500))
	requireProven(t, network, b, relayName, sent)

	requireProven(t, network, b, first.ServerName, sent)
	delivered := appear(t, b, bAddress)
	next(t, network, b, first.ServerName) // a server that asks is there
	select {
	case got := <-delivered:
		assert.Equal(t, a.ServerName, got.Origin)
		assert.Equal(t, sent.TransactionID, got.TransactionID)
	case <-time.After(patience):
		t.Fatalf("nothing comes:\n%s", p1.logged())
	}
	require.Eventually(t, func() bool { return !next(t, network, b, first.ServerName).EntriesQueued }, patience, 20*time.Millisecond)
	assert.True(t, next(t, network, c, first.ServerName).EntriesQueued, "c isn't one that mail is passed on to")
	p1.stop()
	p2.stop()
}

// TestPassOnWhatWasThere passes on mail that a relay has stored before it was told
// to.
func TestPassOnWhatWasThere(t *testing.T) {
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	db, key, bAddress := database(t), filepath.Join(t.TempDir(), "key.pem"), freeAddress(t)
	o := options{signingKey: key}
	id, err := o.identify()
	require.NoError(t, err)
	arguments := []string{"--listen", "127.0.0.1:0", "--db", db, "--signing-key", key}
	p := startIn(t, "", arguments...)
	network := relaytest.NewNetwork()
	network.Set(id.ServerName, relaytest.Host{Address: p.address})
	t.Cleanup(network.CloseIdleConnections)
	leave(t, network, a, id.ServerName, a.Transaction(b.ServerName, "t1", 1, 500))
	p.stop()

	delivered := appear(t, b, bAddress)
	p = startIn(t, "", append(arguments, "--pass-on", "all", "--at", string(b.ServerName)+"="+bAddress)...)
	select {
	case got := <-delivered:
		assert.Equal(t, a.ServerName, got.Origin)
	case <-time.After(patience):
		t.Fatalf("nothing comes:\n%s", p.logged())
	}
	p.stop()
}

// TestPassOnByOrdinaryNames has relays that find each other as Matrix servers
// do, and fetch each other's keys.
func TestPassOnByOrdinaryNames(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SSL_CERT_FILE is for Linux")
	}
	cert, key, pool := certificate(t)
	t.Setenv("SSL_CERT_FILE", cert)
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	run := func(more ...string) (spec.ServerName, *program) {
		address := freeAddress(t)
		return spec.ServerName(address), startIn(t, "", append([]string{
			"--listen", address, "--name", address, "--db", "memory:", "--keys", "any", "--tls-cert", cert, "--tls-key", key,
			"--signing-key", filepath.Join(t.TempDir(), "key.pem"),
		}, more...)...)
	}
	second, p2 := run()
	first, p1 := run("--pass-on", "all", "--relays-of", string(b.ServerName+"="+second))
	sent := a.Transaction(b.ServerName, "t1", 1, 500)
	leave(t, trusting(t, pool), a, first, sent)
	requireProven(t, trusting(t, pool), b, second, sent)
	p1.stop()
	p2.stop()
}

// TestStopWhilePassingOn stops the program while a destination keeps it waiting.
func TestStopWhilePassingOn(t *testing.T) {
	a, b, first := relaytest.NewNode("a"), relaytest.NewNode("b"), relaytest.NewNode("first")
	asked, end := make(chan time.Time, 10), make(chan struct{})
	stuck := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- time.Now()
		<-end
	}))
	defer stuck.Close()
	defer close(end)
	p := startIn(t, "", "--listen", "127.0.0.1:0", "--db", database(t), "--signing-key", keyFile(t, first),
		"--pass-on", "all", "--at", string(b.ServerName)+"="+stuck.Listener.Addr().String())
	network := relaytest.NewNetwork()
	network.Set(first.ServerName, relaytest.Host{Address: p.address})
	t.Cleanup(network.CloseIdleConnections)
	leave(t, network, a, first.ServerName, a.Transaction(b.ServerName, "t1", 1, 500))
	begin := <-asked
	p.stop()
	assert.Less(t, time.Since(begin), client.DefaultDirectTimeout)
}

// TestRoads asks for servers that can't be found, or mustn't.
func TestRoads(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	at, hex := server.Listener.Addr().String(), string(relaytest.NewNode("b").ServerName)
	for _, test := range []struct{ server, keys, want string }{
		{at, keysPublic, "not a public"},
		{at, keysNone, "no way"},
		{hex, keysAny, "no way"},
		{at, keysAny, "certificate"}, // it was found
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "matrix://"+test.server+"/", nil)
		require.NoError(t, err)
		strangers := newStrangers()
		roads := newRoads(nil, (&options{keys: test.keys}).network(strangers), strangers)
		response, err := roads.RoundTrip(request)
		if err == nil {
			_ = response.Body.Close()
		}
		require.ErrorContains(t, err, test.want)
	}
}

// appear has a node listen, and returns the mail that is passed on to it.
func appear(t *testing.T, node *relaytest.Node, address string) <-chan relay.Delivery {
	delivered := make(chan relay.Delivery, 10)
	mail := memory.New(memory.Options{})
	server, err := relay.New(relay.Config{ServerName: node.ServerName, Store: mail, Deliver: func(_ context.Context, d relay.Delivery) error {
		delivered <- d
		return nil
	}})
	require.NoError(t, err)
	listener, err := net.Listen("tcp", address)
	require.NoError(t, err)
	web := &http.Server{Handler: server, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = web.Serve(listener) }() // ends with Close
	t.Cleanup(func() {
		assert.NoError(t, web.Close())
		assert.NoError(t, server.Close())
		assert.NoError(t, mail.Close())
	})
	return delivered
}

func leave(t testing.TB, transport http.RoundTripper, from *relaytest.Node, relay spec.ServerName, transaction gomatrixserverlib.Transaction) {
	t.Helper()
	_, err := from.Federation(transport).P2PSendTransactionToRelay(t.Context(), relaytest.User(transaction.Destination), transaction, relay)
	require.NoError(t, err)
}

func next(t testing.TB, transport http.RoundTripper, node *relaytest.Node, relay spec.ServerName) wire.Answer {
	t.Helper()
	caller, err := client.NewCaller(client.CallerConfig{Identity: node.SigningIdentity, Transport: transport})
	require.NoError(t, err)
	answer, err := caller.Next(t.Context(), relay, 0)
	require.NoError(t, err)
	return answer
}

// requireProven waits until a relay has a transaction, with the proof that its
// origin signed it.
func requireProven(t *testing.T, transport http.RoundTripper, to *relaytest.Node, relay spec.ServerName, sent gomatrixserverlib.Transaction) {
	t.Helper()
	var answer wire.Answer
	require.Eventually(t, func() bool {
		answer = next(t, transport, to, relay)
		return answer.EntriesQueued
	}, patience, 20*time.Millisecond)
	proof, err := wire.ReadProof(answer.Proof)
	require.NoError(t, err)
	proven, err := proof.Check(t.Context(), wire.HexKeys{}, answer.Transaction, to.ServerName)
	require.NoError(t, err)
	assert.Equal(t, sent.Origin, proven.Origin)
	assert.Equal(t, sent.TransactionID, proven.TransactionID)
	got, err := answer.Decode()
	require.NoError(t, err)
	assert.Equal(t, len(sent.PDUs), len(got.PDUs))
}

// trusting finds servers whose name is their address, over TLS.
func trusting(t *testing.T, pool *x509.CertPool) http.RoundTripper {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		out := r.Clone(r.Context())
		out.URL.Scheme = "https"
		return transport.RoundTrip(out)
	})
}
