package relaytest

import (
	"context"
	"crypto/ed25519"

	"github.com/matrix-org/gomatrixserverlib"

	"github.com/matrixrelay/relay/wire"
)

// Keys verifies the signatures of all nodes, those of NewNode and of NewNamed.
// It stands for a homeserver's key ring.
func Keys() wire.HexKeys { return wire.HexKeys{Others: namedKeys{}} }

// namedKeys are the keys of ordinary names, which come from the names.
type namedKeys struct{}

// VerifyJSONs implements gomatrixserverlib.JSONVerifier.
func (namedKeys) VerifyJSONs(_ context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	results := make([]gomatrixserverlib.VerifyJSONResult, len(requests))
	for i, r := range requests {
		node := NewNamed(r.ServerName)
		key := node.PrivateKey.Public().(ed25519.PublicKey)
		results[i].Error = gomatrixserverlib.VerifyJSON(string(r.ServerName), node.KeyID, key, r.Message)
	}
	return results, nil
}
