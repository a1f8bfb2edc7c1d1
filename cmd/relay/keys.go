package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// Whose keys are fetched.
const (
	keysNone   = "none"
	keysPublic = "public"
	keysAny    = "any"
)

const (
	maxKeysBody = 64 << 10
	maxKeysEach = 32 // of one server, so that none fills the cache
)

// keys check signatures. Servers whose name is their key (64 hex characters) are
// never looked up.
type keys struct {
	wire.HexKeys
	fetcher *sparingFetcher
}

// newKeys has keys fetched over a network.
func newKeys(network http.RoundTripper) keys {
	fetcher := newSparingFetcher(&gomatrixserverlib.DirectKeyFetcher{
		Client:            newKeyClient(network),
		IsLocalServerName: func(spec.ServerName) bool { return false },
	})
	ring := &gomatrixserverlib.KeyRing{
		KeyFetchers: []gomatrixserverlib.KeyFetcher{fetcher},
		KeyDatabase: newKeyCache(),
	}
	return keys{wire.HexKeys{Others: ring}, fetcher}
}

// close ends the look-ups under way.
func (k keys) close() { k.fetcher.close() }

// A keyClient is a gomatrixserverlib.KeyClient that reads an answer to a bound
// only, and follows no redirect.
type keyClient struct{ client *http.Client }

func newKeyClient(network http.RoundTripper) keyClient {
	return keyClient{&http.Client{
		Transport:     network,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// GetServerKeys implements gomatrixserverlib.KeyClient.
func (c keyClient) GetServerKeys(ctx context.Context, server spec.ServerName) (keys gomatrixserverlib.ServerKeys, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "matrix://"+string(server)+keyPath, nil)
	if err != nil {
		return keys, err
	}
	response, err := c.client.Do(request)
	if err != nil {
		return keys, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	if response.StatusCode != http.StatusOK {
		return keys, fmt.Errorf("%s answers %s when asked for its keys", server, response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxKeysBody))
	if err != nil {
		return keys, err
	}
	if err := json.Unmarshal(body, &keys); err != nil {
		return keys, err
	}
	if n := len(keys.VerifyKeys) + len(keys.OldVerifyKeys); n > maxKeysEach {
		return keys, fmt.Errorf("%s has %d keys", server, n)
	}
	return keys, nil
}

var errNoNotary = errors.New("no notary is asked")

// LookupServerKeys implements gomatrixserverlib.KeyClient.
func (keyClient) LookupServerKeys(
	context.Context, spec.ServerName, map[gomatrixserverlib.PublicKeyLookupRequest]spec.Timestamp,
) ([]gomatrixserverlib.ServerKeys, error) {
	return nil, errNoNotary
}
