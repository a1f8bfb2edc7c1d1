package main

import (
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
)

// keyFile writes the key of a node to a file.
func keyFile(t testing.TB, node *relaytest.Node) string {
	file := filepath.Join(t.TempDir(), "key.pem")
	block := &pem.Block{Type: keyBlock, Headers: map[string]string{keyIDHeader: string(node.KeyID)}, Bytes: node.PrivateKey.Seed()}
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	return file
}

func TestKeyIsMadeOnce(t *testing.T) {
	o := options{signingKey: filepath.Join(t.TempDir(), "key.pem")}
	made, err := o.identify()
	require.NoError(t, err)
	assert.Equal(t, hex.EncodeToString(made.PrivateKey[32:]), string(made.ServerName))
	info, err := os.Stat(o.signingKey)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	again, err := o.identify()
	require.NoError(t, err)
	assert.Equal(t, made, again)

	o.name = "relay.example"
	named, err := o.identify()
	require.NoError(t, err)
	made.ServerName = "relay.example"
	assert.Equal(t, made, named)
}

// TestDendritesKey reads a file that Dendrite's generate-keys has made.
func TestDendritesKey(t *testing.T) {
	const file = `-----BEGIN MATRIX PRIVATE KEY-----
Key-ID: ed25519:Fk3Ml2

AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=
-----END MATRIX PRIVATE KEY-----
`
	o := options{signingKey: filepath.Join(t.TempDir(), "matrix_key.pem")}
	require.NoError(t, os.WriteFile(o.signingKey, []byte(file), 0o600))
	id, err := o.identify()
	require.NoError(t, err)
	assert.Equal(t, gomatrixserverlib.KeyID("ed25519:Fk3Ml2"), id.KeyID)
	assert.Equal(t, spec.ServerName("79b5562e8fe654f94078b112e8a98ba7901f853ae695bed7e0e3910bad049664"), id.ServerName)

	for old, change := range map[string]struct{ to, want string }{
		"MATRIX PRIVATE": {"PRIVATE", "no PEM block"},
		"Key-ID":         {"Key", "no Key-ID"},
		"ed25519:Fk":     {"rsa:Fk", "no Key-ID"},
		"AQIDBAUG":       {"AQID", "has 29 bytes, not 32"},
		"-----BEGIN":     {"", "no PEM block"},
	} {
		require.NoError(t, os.WriteFile(o.signingKey, []byte(strings.ReplaceAll(file, old, change.to)), 0o600))
		_, err := o.identify()
		assert.ErrorContains(t, err, change.want, old)
	}
}

func TestNameIsAnotherKey(t *testing.T) {
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	o := options{name: string(a.ServerName), signingKey: keyFile(t, b)}
	_, err := o.identify()
	require.ErrorContains(t, err, "another key")
	require.ErrorContains(t, err, string(b.ServerName))

	o.signingKey = filepath.Join(t.TempDir(), "none.pem")
	_, err = o.identify()
	require.ErrorContains(t, err, "leave --name out")
	require.NoFileExists(t, o.signingKey)
}

func TestKeyIsPublished(t *testing.T) {
	node := relaytest.NewNode("relay")
	publisher := withKeys(keyPublisher{
		fclient.SigningIdentity{ServerName: "relay.example", KeyID: node.KeyID, PrivateKey: node.PrivateKey},
	}, http.NotFoundHandler())
	ask := func(method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		publisher.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w
	}
	assert.Equal(t, http.StatusNotFound, ask(http.MethodGet, "/_matrix/key/v2/serverx").Code)
	assert.Equal(t, http.StatusNotFound, ask(http.MethodPost, keyPath).Code)
	for _, path := range []string{keyPath, keyPath + "/", keyPath + "/ed25519:1"} {
		var keys gomatrixserverlib.ServerKeys
		require.NoError(t, json.Unmarshal(ask(http.MethodGet, path).Body.Bytes(), &keys))
		checks, _ := gomatrixserverlib.CheckKeys("relay.example", time.Now(), keys)
		require.True(t, checks.AllChecksOK, "%+v", checks)
		require.Equal(t, spec.Base64Bytes(node.PrivateKey[32:]), keys.VerifyKeys[node.KeyID].Key)
	}
}

// TestKeyRequestsAreCounted: an address gets the key until its share of requests is used.
func TestKeyRequestsAreCounted(t *testing.T) {
	node := relaytest.NewNode("relay")
	p := start(t, "--db", database(t), "--name", "relay.example", "--signing-key", keyFile(t, node), "--max-requests", "1", "--proxies", "127.0.0.1")
	statuses := make(map[int]bool)
	for range 1000 {
		r, err := http.NewRequest(http.MethodGet, "http://"+p.address+keyPath, nil)
		require.NoError(t, err)
		r.Header.Set("X-Forwarded-For", "192.0.2.1")
		response, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		statuses[response.StatusCode] = true
		if response.StatusCode != http.StatusOK {
			break
		}
	}
	require.Equal(t, map[int]bool{http.StatusOK: true, http.StatusTooManyRequests: true}, statuses)
}
