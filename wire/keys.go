package wire

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A KnownKeys is a gomatrixserverlib.JSONVerifier that can tell some keys
// without asking anyone. Verify checks signatures of those servers itself,
// without encoding the request again.
type KnownKeys interface {
	gomatrixserverlib.JSONVerifier

	// KnownKey returns the key of that ID if it is certain that VerifyJSONs
	// would use it, and no other, for a signature that is made now; else known
	// is false.
	KnownKey(server spec.ServerName, id gomatrixserverlib.KeyID) (key ed25519.PublicKey, known bool)
}

// HexKeys are the signing keys in P2P networks, where a server's name is its
// ed25519 public key in hex (64 characters), so that nothing is looked up. Only
// the one spelling of a key is a name: see CheckName. Key IDs may be any
// ed25519:*. The zero value is ready for use, and safe for concurrent use.
type HexKeys struct {
	// Others verifies for servers whose name is not a key, such as a
	// gomatrixserverlib.KeyRing. Nil refuses them.
	Others gomatrixserverlib.JSONVerifier
}

var _ KnownKeys = HexKeys{}

var errNotHex = errors.New("wire: the server name is not an ed25519 public key in hex")

// HexIdentity is the identity of a server whose name is its key. The ID of the key
// means nothing there.
func HexIdentity(key ed25519.PrivateKey) fclient.SigningIdentity {
	return fclient.SigningIdentity{
		ServerName: spec.ServerName(hex.EncodeToString(key.Public().(ed25519.PublicKey))),
		KeyID:      "ed25519:1",
		PrivateKey: key,
	}
}

// KnownKey implements KnownKeys.
func (HexKeys) KnownKey(server spec.ServerName, id gomatrixserverlib.KeyID) (ed25519.PublicKey, bool) {
	if !strings.HasPrefix(string(id), "ed25519:") || !isHexKey(server) {
		return nil, false
	}
	key, err := keyOfName(server)
	return key, err == nil
}

// VerifyJSONs implements gomatrixserverlib.JSONVerifier. A key that is a name
// is valid at any time.
func (h HexKeys) VerifyJSONs(ctx context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	results := make([]gomatrixserverlib.VerifyJSONResult, len(requests))
	var others []gomatrixserverlib.VerifyJSONRequest
	var places []int
	for i, request := range requests {
		err := h.verify(request)
		if h.Others != nil && errors.Is(err, errNotHex) {
			others, places = append(others, request), append(places, i)
			continue
		}
		results[i].Error = err
	}
	if len(others) == 0 {
		return results, nil
	}
	answers, err := h.Others.VerifyJSONs(ctx, others)
	if err != nil {
		return nil, err
	}
	if len(answers) != len(others) {
		return nil, errors.New("wire: HexKeys.Others answered another number of requests")
	}
	for i, place := range places {
		results[place] = answers[i]
	}
	return results, nil
}

// verify succeeds if any of the server's signatures is right, as key rings do.
func (h HexKeys) verify(request gomatrixserverlib.VerifyJSONRequest) error {
	if !isHexKey(request.ServerName) {
		return errNotHex
	}
	name := string(request.ServerName)
	ids, err := gomatrixserverlib.ListKeyIDs(name, request.Message)
	if err != nil {
		return fmt.Errorf("wire: signatures of %q: %w", name, err)
	}
	err = fmt.Errorf("wire: not signed by %q with ed25519", name)
	for _, id := range ids {
		key, ok := h.KnownKey(request.ServerName, id)
		if !ok {
			continue
		}
		if err = gomatrixserverlib.VerifyJSON(name, id, key, request.Message); err == nil {
			return nil
		}
	}
	return err
}
