package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
)

// TestOrdinaryServerOverTheNetwork has the program fetch the key of a server
// at a private address, where it looks only if it is told to.
func TestOrdinaryServerOverTheNetwork(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SSL_CERT_FILE is for Linux")
	}
	cert, key, _ := certificate(t)
	keys := newKeyServer()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := w.Write(keys.publish(r.Host, keys.keys[r.Host]))
		if err != nil {
			t.Error(err)
		}
	}))
	o := options{cert: cert, key: key}
	var err error
	server.TLS, err = o.certificate()
	require.NoError(t, err)
	server.StartTLS()
	defer server.Close()
	t.Setenv("SSL_CERT_FILE", cert)

	address, err := url.Parse(server.URL)
	require.NoError(t, err)
	node := relaytest.NewNode("ordinary")
	node.SigningIdentity = fclient.SigningIdentity{
		ServerName: spec.ServerName(fmt.Sprintf("127.0.0.1:%s", address.Port())), KeyID: ordinaryKeyID, PrivateKey: node.PrivateKey,
	}
	keys.keys[string(node.ServerName)] = node.PrivateKey
	transaction := node.Transaction(relaytest.NewNode("b").ServerName, "t1", 1, 300)

	require.NoError(t, put(t, start(t, "--db", database(t), "--keys", "any").network(), node, transaction))
	requireStatus(t, http.StatusServiceUnavailable, put(t, start(t, "--db", database(t)).network(), node, transaction))
	requireStatus(t, http.StatusUnauthorized, put(t, start(t, "--db", database(t), "--keys", "none").network(), node, transaction))
}
