package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// A signing key is kept as Dendrite keeps it: a PEM block of this type with the
// ID of the key in a header and the 32 bytes that an ed25519 key is made from.
const (
	keyBlock    = "MATRIX PRIVATE KEY"
	keyIDHeader = "Key-ID"
)

var validKeyID = regexp.MustCompile(`^ed25519:[\w-]+$`)

// identify returns the name and the key of this relay; without --signing-key it
// has no key. A key that isn't there yet is made.
func (o *options) identify() (id fclient.SigningIdentity, err error) {
	name := spec.ServerName(o.name)
	if o.signingKey == "" {
		return fclient.SigningIdentity{ServerName: name}, nil
	}
	if _, err := os.Stat(o.signingKey); errors.Is(err, fs.ErrNotExist) {
		if isKeyName(name) {
			return id, fmt.Errorf("--signing-key: %w; to have one made, leave --name out", err)
		}
		if _, _, err := makeKey(o.signingKey); err != nil {
			return id, fmt.Errorf("--signing-key: %w", err)
		}
	}
	return identity(name, o.signingKey)
}

// identity returns a server with the key in a file. One without a name gets its key for
// one.
func identity(name spec.ServerName, file string) (id fclient.SigningIdentity, err error) {
	id.ServerName = name
	if id.KeyID, id.PrivateKey, err = readKey(file); err != nil {
		return id, fmt.Errorf("--signing-key: %w", err)
	}
	public := id.PrivateKey.Public().(ed25519.PublicKey)
	if id.ServerName == "" {
		id.ServerName = keyName(public)
	}
	if key, ok := (wire.HexKeys{}).KnownKey(id.ServerName, id.KeyID); ok && !bytes.Equal(key, public) {
		return id, fmt.Errorf("--name is another key than the one in %s, whose name is %s", file, keyName(public))
	}
	return id, nil
}

// keyName is the name of a server whose name is its key.
func keyName(key ed25519.PublicKey) spec.ServerName { return spec.ServerName(hex.EncodeToString(key)) }

// isKeyName reports whether a server's name is its key.
func isKeyName(name spec.ServerName) bool {
	_, ok := wire.HexKeys{}.KnownKey(name, "ed25519:")
	return ok
}

func readKey(file string) (gomatrixserverlib.KeyID, ed25519.PrivateKey, error) {
	encoded, err := os.ReadFile(file)
	if err != nil {
		return "", nil, err
	}
	block, _ := pem.Decode(encoded)
	switch {
	case block == nil || block.Type != keyBlock:
		return "", nil, fmt.Errorf("there is no PEM block %q in %s", keyBlock, file)
	case !validKeyID.MatchString(block.Headers[keyIDHeader]):
		return "", nil, fmt.Errorf("%s has no %s such as ed25519:1", file, keyIDHeader)
	case len(block.Bytes) != ed25519.SeedSize:
		return "", nil, fmt.Errorf("the key in %s has %d bytes, not %d", file, len(block.Bytes), ed25519.SeedSize)
	}
	return gomatrixserverlib.KeyID(block.Headers[keyIDHeader]), ed25519.NewKeyFromSeed(block.Bytes), nil
}

// makeKey makes a key and a file with it.
func makeKey(file string) (gomatrixserverlib.KeyID, ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return "", nil, err
	}
	id := "ed25519:" + rand.Text()[:6]
	block := &pem.Block{Type: keyBlock, Headers: map[string]string{keyIDHeader: id}, Bytes: key.Seed()}
	if err := writeNew(file, pem.EncodeToMemory(block)); err != nil {
		return "", nil, err
	}
	return gomatrixserverlib.KeyID(id), key, nil
}

const (
	keyPath     = "/_matrix/key/v2/server"
	keyValidity = 24 * time.Hour
)

// A keyPublisher publishes the key of this relay. Servers that check its requests
// need that where its name isn't its key.
type keyPublisher struct{ fclient.SigningIdentity }

// withKeys has requests for keys be answered by one handler, and all others by next.
func withKeys(keys, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && (r.URL.Path == keyPath || strings.HasPrefix(r.URL.Path, keyPath+"/")) {
			keys.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (p keyPublisher) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	keys, err := p.publish(time.Now())
	if err != nil {
		(&wire.Error{Status: http.StatusInternalServerError, Code: spec.ErrorUnknown}).Write(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(keys) // the client may have gone
}

func (p keyPublisher) publish(now time.Time) ([]byte, error) {
	public := p.PrivateKey.Public().(ed25519.PublicKey)
	keys, err := json.Marshal(gomatrixserverlib.ServerKeyFields{
		ServerName:    p.ServerName,
		VerifyKeys:    map[gomatrixserverlib.KeyID]gomatrixserverlib.VerifyKey{p.KeyID: {Key: spec.Base64Bytes(public)}},
		OldVerifyKeys: map[gomatrixserverlib.KeyID]gomatrixserverlib.OldVerifyKey{},
		ValidUntilTS:  spec.AsTimestamp(now.Add(keyValidity)),
	})
	if err != nil {
		return nil, err
	}
	return gomatrixserverlib.SignJSON(string(p.ServerName), p.KeyID, p.PrivateKey, keys)
}
