package wire

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
)

// MaxInteger is the largest integer in a signed object: all decoders read it exactly.
const MaxInteger = 1<<53 - 1

// ErrSigned says that a signed object isn't one that its server has signed.
var ErrSigned = errors.New("wire: no object that its server has signed")

// A signedText is a signed object that has the right form. Its signature wasn't checked.
type signedText struct {
	json      []byte // in canonical form
	unsigned  []byte // likewise, without signatures
	server    spec.ServerName
	key       gomatrixserverlib.KeyID
	signature spec.Base64Bytes
	time      uint64 // of its seq or ts, in milliseconds
}

// signatures are the member of that name.
type signatures map[spec.ServerName]map[gomatrixserverlib.KeyID]string

// signedFields are the members that all signed objects have.
type signedFields struct {
	Type       string          `json:"type"`
	Ext        json.RawMessage `json:"ext,omitempty"`
	Signatures signatures      `json:"signatures,omitempty"`
}

func (f *signedFields) common() *signedFields { return f }

// A signedObject is a signed object on the wire, as JSON.
type signedObject interface {
	common() *signedFields
	signer() (server spec.ServerName, time uint64) // time is its seq or ts
	check() error                                  // of the members that others don't have
}

// canonicalOf returns the canonical form of a text, if it is that of our own encoding of
// the object that was decoded from it. Then nothing in it was passed over or read loosely:
// servers sign some objects that strangers have put words into, and none of these must be
// taken for another.
func canonicalOf(text []byte, decoded any) (canonical []byte, err error) {
	canonical, ok := form(text)
	if !ok {
		return nil, fmt.Errorf("%w: it has no certain canonical form", ErrSigned)
	}
	again, err := canonicalJSON(decoded)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, canonical) {
		return nil, fmt.Errorf("%w: it has other members than those of its type", ErrSigned)
	}
	return canonical, nil
}

// canonicalJSON is the canonical form of our own encoding.
func canonicalJSON(object any) ([]byte, error) {
	text, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSigned, err)
	}
	canonical, ok := form(text)
	if !ok {
		return nil, fmt.Errorf("%w: it has no certain canonical form", ErrSigned)
	}
	return canonical, nil
}

// readSigned decodes a text of at most that many bytes, and checks all but the signature.
func readSigned(text []byte, most int, kind string, into signedObject) (t signedText, err error) {
	if len(text) > most {
		return t, fmt.Errorf("%w: it has more than %d bytes", ErrSigned, most)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return t, fmt.Errorf("%w: %w", ErrSigned, err)
	}
	if t.json, err = canonicalOf(text, into); err != nil {
		return t, err
	}
	f := into.common()
	if f.Type != kind {
		return t, fmt.Errorf("%w: it is of the type %q", ErrSigned, f.Type)
	}
	if err := cmp.Or(into.check(), checkExt(f.Ext)); err != nil {
		return t, err
	}
	t.server, t.time = into.signer()
	if t.key, t.signature, err = f.Signatures.one(t.server); err != nil {
		return t, err
	}
	f.Signatures = nil
	t.unsigned, err = canonicalJSON(into)
	return t, err
}

// checkExt refuses an ext that isn't an object, or that has a number in it that
// decoders don't read alike.
func checkExt(ext json.RawMessage) error {
	if len(ext) == 0 {
		return nil
	}
	if value := gjson.ParseBytes(ext); !value.IsObject() || !hasPlainNumbers(value) {
		return fmt.Errorf("%w: ext", ErrSigned)
	}
	return nil
}

func hasPlainNumbers(value gjson.Result) (plain bool) {
	if value.Type == gjson.Number {
		n, err := strconv.ParseUint(value.Raw, 10, 64)
		return err == nil && n <= MaxInteger
	}
	plain = true
	if value.IsObject() || value.IsArray() {
		value.ForEach(func(_, item gjson.Result) bool {
			plain = hasPlainNumbers(item)
			return plain
		})
	}
	return plain
}

// one returns the signature if there is exactly one, of that server.
func (s signatures) one(server spec.ServerName) (key gomatrixserverlib.KeyID, signature spec.Base64Bytes, err error) {
	if len(s) != 1 || len(s[server]) != 1 {
		return "", nil, fmt.Errorf("%w: it must have one signature, of its server", ErrSigned)
	}
	for id, text := range s[server] {
		key, err = id, signature.Decode(text)
	}
	if err != nil || !isSignature(signature) {
		return "", nil, fmt.Errorf("%w: the signature can't be read", ErrSigned)
	}
	if !strings.HasPrefix(string(key), "ed25519:") || !isPlain(string(key)) || strings.Contains(string(key), " ") {
		return "", nil, fmt.Errorf("%w: the ID of the key", ErrSigned)
	}
	return key, signature, nil
}

// signObject signs an object, and returns its canonical form.
func signObject(o signedObject, by fclient.SigningIdentity) ([]byte, error) {
	if len(by.PrivateKey) != ed25519.PrivateKeySize {
		return nil, errors.New("wire: the identity has no private key")
	}
	f := o.common()
	f.Signatures = nil
	unsigned, err := canonicalJSON(o)
	if err != nil {
		return nil, err
	}
	signature := spec.Base64Bytes(ed25519.Sign(by.PrivateKey, unsigned))
	f.Signatures = signatures{by.ServerName: {by.KeyID: signature.Encode()}}
	return canonicalJSON(o)
}

// hash identifies the object, whichever key has signed it.
func (t *signedText) hash() [sha256.Size]byte { return sha256.Sum256(t.unsigned) }

// check checks the signature. The key must have been valid at the earlier of now and the
// object's own time. The errors are as those of Proof.Check, with ErrSigned.
func (t *signedText) check(ctx context.Context, keys gomatrixserverlib.JSONVerifier, now time.Time) error {
	if known, ok := keys.(KnownKeys); ok {
		if key, ok := known.KnownKey(t.server, t.key); ok {
			if !ed25519.Verify(key, t.unsigned, t.signature) {
				return fmt.Errorf("%w: the signature is wrong", ErrSigned)
			}
			return nil
		}
	}
	at := spec.Timestamp(min(t.time, uint64(max(now.UnixMilli(), 0))))
	return askVerifier(ctx, keys, ErrSigned, gomatrixserverlib.VerifyJSONRequest{
		ServerName: t.server, AtTS: at, Message: t.json,
		ValidityCheckingFunc: gomatrixserverlib.StrictValiditySignatureCheck,
	})
}

// askVerifier leaves one signature to a JSONVerifier. If it is wrong, the error is that.
func askVerifier(ctx context.Context, keys gomatrixserverlib.JSONVerifier, wrong error, request gomatrixserverlib.VerifyJSONRequest) error {
	results, err := keys.VerifyJSONs(ctx, []gomatrixserverlib.VerifyJSONRequest{request})
	switch {
	case err != nil:
		return fmt.Errorf("wire: looking up the keys of %q: %w", request.ServerName, err)
	case len(results) != 1:
		return errors.New("wire: the verifier of JSON answered another number of requests")
	case results[0].Error == nil:
		return nil
	case isKeyNotValid(results[0].Error):
		return fmt.Errorf("%w: %w: %w", ErrNoKey, ErrKeyNotValid, results[0].Error)
	case isKeyMissing(results[0].Error):
		return fmt.Errorf("%w: %w", ErrNoKey, results[0].Error)
	}
	return fmt.Errorf("%w: %w", wrong, results[0].Error)
}
