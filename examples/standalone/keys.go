package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
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
	fetchTimeout = 10 * time.Second
	maxKeysBody  = 64 << 10
)

// private networks have nothing to do with the servers of others, which could
// otherwise have this relay make requests in them by naming themselves after
// an address. (What fclient asks for first, a server's .well-known at port 443,
// isn't bound to these.)
var (
	everywhere = []string{"0.0.0.0/0", "::/0"}
	private    = []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
		"::/128", "::1/128", "64:ff9b::/96", "fc00::/7", "fe80::/10",
	}
)

// newKeys checks signatures. Servers whose name is their key (64 hex
// characters) are never looked up.
func newKeys(whose string) gomatrixserverlib.JSONVerifier {
	if whose == keysNone {
		return wire.HexKeys{}
	}
	return wire.HexKeys{Others: newKeyRing(append(networkOptions(whose), fclient.WithTimeout(fetchTimeout))...)}
}

// networkOptions say how other servers are found, and where none is.
func networkOptions(whose string) []fclient.ClientOption {
	options := []fclient.ClientOption{fclient.WithWellKnownSRVLookups(true)}
	if whose == keysPublic {
		options = append(options, fclient.WithAllowDenyNetworks(everywhere, private))
	}
	return options
}

// newKeyRing fetches keys from the servers that have them, and keeps them for
// a while.
func newKeyRing(options ...fclient.ClientOption) *gomatrixserverlib.KeyRing {
	direct := &gomatrixserverlib.DirectKeyFetcher{
		Client:            keyClient{fclient.NewClient(options...)},
		IsLocalServerName: func(spec.ServerName) bool { return false },
	}
	return &gomatrixserverlib.KeyRing{
		KeyFetchers: []gomatrixserverlib.KeyFetcher{newSparingFetcher(direct)},
		KeyDatabase: &keyCache{},
	}
}

// A keyClient is a gomatrixserverlib.KeyClient that reads an answer to a bound
// only.
type keyClient struct{ client *fclient.Client }

// GetServerKeys implements gomatrixserverlib.KeyClient.
func (c keyClient) GetServerKeys(ctx context.Context, server spec.ServerName) (keys gomatrixserverlib.ServerKeys, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "matrix://"+string(server)+"/_matrix/key/v2/server", nil)
	if err != nil {
		return keys, err
	}
	response, err := c.client.DoHTTPRequest(ctx, request)
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
	return keys, json.Unmarshal(body, &keys)
}

var errNoNotary = errors.New("no notary is asked")

// LookupServerKeys implements gomatrixserverlib.KeyClient.
func (keyClient) LookupServerKeys(
	context.Context, spec.ServerName, map[gomatrixserverlib.PublicKeyLookupRequest]spec.Timestamp,
) ([]gomatrixserverlib.ServerKeys, error) {
	return nil, errNoNotary
}
