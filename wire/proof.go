package wire

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
)

// MaxProofBytes bounds a Proof in JSON.
const MaxProofBytes = 4 << 10

// A Proof shows that the origin of a transaction signed it for one destination,
// and under which ID: it is the X-Matrix signature of the SendRelay request,
// without the parts that stand in the transaction itself. On the wire it is relay_proof.
type Proof struct {
	// Relay is the server that the request was signed for.
	Relay spec.ServerName `json:"relay"`

	// URI is that of the request: see SignedURI.
	URI string `json:"uri"`

	// Key and Signature (unpadded base64) are those of the X-Matrix header.
	Key       gomatrixserverlib.KeyID `json:"key"`
	Signature string                  `json:"sig"`

	// Origin is the server that signed, if the signed content has no origin. In
	// an answer such a transaction begins with an origin that the relay put in.
	Origin spec.ServerName `json:"origin,omitempty"`
}

// ErrProof says that a proof fails: somebody forged,
// changed or redirected the transaction.
var ErrProof = errors.New("wire: wrong proof of origin")

// ErrNoKey says that a signature couldn't be checked, because no key of its
// server that was valid then could be had. A JSONVerifier may wrap it in the
// errors of its results.
var ErrNoKey = errors.New("wire: no key to check a signature")

// ErrKeyNotValid says, beside ErrNoKey, that there is a key, and that by our own
// clock it wasn't valid then. A clock that is wrong says so, too.
var ErrKeyNotValid = errors.New("wire: the key wasn't valid when it signed")

// ProofOf returns the proof in a SendRelay request that was verified. Relay is
// the server that the request is for if its header doesn't say. There is no proof in a
// few kinds of request, which only come up when made by hand: with several signatures,
// odd characters in names, a proof that would be too long, or content whose keys need
// escapes, for which signers and verifiers don't agree on a canonical form.
func ProofOf(r *SignedRequest, relay spec.ServerName) (p Proof, ok bool) {
	header, err := r.header()
	if err != nil || header.count != 1 || r.Method != http.MethodPut {
		return p, false
	}
	content, err := r.Body().Content()
	if err != nil {
		return p, false
	}
	if header.destination != "" {
		relay = header.destination
	}
	p = Proof{Relay: relay, URI: r.URI, Key: header.keyID, Signature: header.signature.Encode()}
	if !content.HasOrigin {
		p.Origin = header.origin
	}
	if len(header.signature) != ed25519.SignatureSize || !p.isPlain(header.origin) || p.size() > MaxProofBytes {
		return p, false
	}
	_, err = r.Body().canonicalForm()
	return p, err == nil
}

// isPlain reports whether the strings stand in canonical JSON as they are. No
// spaces in the key ID: verifiers put it into the errors that ask reads.
func (p *Proof) isPlain(origin spec.ServerName) bool {
	for _, s := range []string{string(origin), string(p.Relay), p.URI, string(p.Key)} {
		if s == "" || !isPlain(s) {
			return false
		}
	}
	return CheckName(origin) == nil && !strings.Contains(string(p.Key), " ")
}

// size is the length of the JSON of a proof that is plain.
func (p *Proof) size() int {
	size := len(`{"relay":"","uri":"","key":"","sig":""}`) + len(p.Relay) + len(p.URI) + len(p.Key) + len(p.Signature)
	if p.Origin != "" {
		size += len(`,"origin":""`) + len(p.Origin)
	}
	return size
}

// JSON encodes the proof.
func (p *Proof) JSON() []byte {
	var encoded bytes.Buffer
	encoder := json.NewEncoder(&encoded)
	encoder.SetEscapeHTML(false)              // a proof that was short must stay so
	if err := encoder.Encode(p); err != nil { // strings: can't be
		return nil
	}
	return bytes.TrimSuffix(encoded.Bytes(), []byte("\n"))
}

// ReadProof decodes a proof. Its error wraps ErrProof.
func ReadProof(encoded []byte) (Proof, error) {
	var p Proof
	if len(encoded) > MaxProofBytes {
		return p, fmt.Errorf("%w: it is too long", ErrProof)
	}
	if err := json.Unmarshal(encoded, &p); err != nil {
		return p, fmt.Errorf("%w: it can't be read: %w", ErrProof, err)
	}
	return p, nil
}

// Proven is everything that a proof proves.
type Proven struct {
	Origin        spec.ServerName
	TransactionID gomatrixserverlib.TransactionID

	// Content is the transaction as it was signed, in canonical JSON. Use it
	// instead of the bytes that came with the proof: signatures are over canonical JSON,
	// and other bytes than those that were signed can have the same one.
	Content []byte

	// Digest identifies the content: see Content.Digest.
	Digest [sha256.Size]byte

	// Signed is the content's origin_server_ts, 0 if it has none.
	Signed spec.Timestamp
}

// Check checks that the origin signed a transaction for destination, with a key
// that was valid at its origin_server_ts. The transaction is as it was signed, or
// as an answer holds it. The error wraps ErrProof if it didn't, ErrNoKey if
// that can't be told since there is no key, and is another one if looking for
// keys failed.
func (p *Proof) Check(ctx context.Context, keys gomatrixserverlib.JSONVerifier, transaction []byte, destination spec.ServerName) (Proven, error) {
	return p.CheckBody(ctx, keys, NewBody(transaction), destination)
}

// CheckBody is Check for a transaction of which something may be known already.
func (p *Proof) CheckBody(ctx context.Context, keys gomatrixserverlib.JSONVerifier, transaction *Body, destination spec.ServerName) (Proven, error) {
	proven, err := p.read(transaction, destination)
	if err != nil {
		return Proven{}, fmt.Errorf("%w: %w", ErrProof, err)
	}
	if err := p.verify(ctx, keys, &proven); err != nil {
		return Proven{}, err
	}
	return proven, nil
}

// IsKeyKnown reports whether CheckBody checks a transaction of that origin itself, if
// its canonical form is certain: see Verifier.IsKeyKnown.
func (p *Proof) IsKeyKnown(keys gomatrixserverlib.JSONVerifier, origin spec.ServerName) bool {
	known, ok := keys.(KnownKeys)
	if ok {
		_, ok = known.KnownKey(origin, p.Key)
	}
	return ok
}

// read finds the proven values, which hold if the signature is right.
func (p *Proof) read(transaction *Body, destination spec.ServerName) (proven Proven, err error) {
	route, err := ParseURI(p.URI)
	if err != nil || route.Endpoint != SendRelay {
		return proven, errors.New("its URI isn't that of a send_relay request")
	}
	if route.Destination() != destination {
		return proven, fmt.Errorf("the transaction is for %q", route.Destination())
	}
	signed, err := p.withoutOrigin(transaction).canonicalForm()
	if err != nil {
		return proven, err
	}
	content, err := signed.Content()
	if err != nil {
		return proven, err
	}
	proven = Proven{
		Origin: content.Origin, TransactionID: route.TransactionID,
		Content: signed.json, Digest: content.Digest, Signed: content.OriginServerTS,
	}
	if content.HasOrigin == (p.Origin != "") {
		return proven, errors.New("the transaction and the proof must have one origin between them")
	}
	if p.Origin != "" {
		proven.Origin = p.Origin
	}
	if !p.isPlain(proven.Origin) {
		return proven, errors.New("there are characters in it that no proof has")
	}
	return proven, nil
}

// withoutOrigin takes away the origin that a relay put in.
func (p *Proof) withoutOrigin(transaction *Body) *Body {
	if p.Origin == "" {
		return transaction
	}
	rest, ok := bytes.CutPrefix(bytes.TrimLeft(transaction.json, space), []byte(`{"origin":"`+string(p.Origin)+`",`))
	if !ok {
		return transaction
	}
	return NewBody(append([]byte{'{'}, rest...))
}

func (p *Proof) verify(ctx context.Context, keys gomatrixserverlib.JSONVerifier, proven *Proven) error {
	var signature spec.Base64Bytes
	if err := signature.Decode(p.Signature); err != nil || len(signature) != ed25519.SignatureSize {
		return fmt.Errorf("%w: the signature can't be read", ErrProof)
	}
	covered := signedMessage{proven.Content, p.Relay, http.MethodPut, proven.Origin, p.URI}
	if known, ok := keys.(KnownKeys); ok {
		if key, ok := known.KnownKey(proven.Origin, p.Key); ok {
			if !covered.verify(key, signature) {
				return fmt.Errorf("%w: the signature is wrong", ErrProof)
			}
			return nil
		}
	}
	return p.ask(ctx, keys, proven, covered.append(nil), signature)
}

// ask leaves the signature to a JSONVerifier.
func (p *Proof) ask(ctx context.Context, keys gomatrixserverlib.JSONVerifier, proven *Proven, message []byte, signature spec.Base64Bytes) error {
	signed := bytes.TrimSuffix(message, []byte(`}`))
	signed = fmt.Appendf(signed, `,"signatures":{"%s":{"%s":"%s"}}}`, proven.Origin, p.Key, signature.Encode())
	return askVerifier(ctx, keys, ErrProof, gomatrixserverlib.VerifyJSONRequest{
		ServerName: proven.Origin, AtTS: proven.Signed, Message: signed,
		ValidityCheckingFunc: gomatrixserverlib.StrictValiditySignatureCheck,
	})
}

// isKeyMissing reads the errors of gomatrixserverlib.KeyRing; there is no other
// way to tell a key that is missing from a signature that is wrong. A key that
// wasn't valid is often one that couldn't be fetched anew, since its server is
// offline, or our own clock is wrong, and then the signature wasn't looked at.
func isKeyMissing(err error) bool {
	return errors.Is(err, ErrNoKey) || strings.Contains(err.Error(), "could not download key") || isKeyNotValid(err)
}

func isKeyNotValid(err error) bool {
	return errors.Is(err, ErrKeyNotValid) || strings.Contains(err.Error(), " not valid at ")
}

// WithProof returns the body of a SendRelay request that passes a transaction
// on: the transaction as it was signed, and relay_proof.
func WithProof(transaction []byte, p Proof) []byte {
	start := bytes.IndexByte(transaction, '{') + 1
	encoded := p.JSON()
	body := make([]byte, 0, len(transaction)+len(encoded)+len(`"relay_proof":,`))
	body = append(append(body, transaction[:start]...), `"relay_proof":`...)
	body = append(append(body, encoded...), ',')
	return append(body, transaction[start:]...)
}

// HasProof reports whether there may be a proof in the body of a SendRelay
// request.
func HasProof(body []byte) bool { return bytes.Contains(body, []byte(`"`+proofKey+`"`)) }

// CutProof takes the proof out of the body of a SendRelay request; has says
// whether there is one. The error is an *Error, 400 M_BAD_JSON.
func (b *Body) CutProof() (transaction *Body, p Proof, has bool, err error) {
	if b.canonical && !b.fields.hasProof || !HasProof(b.json) {
		return b, p, false, nil
	}
	value := gjson.GetBytes(b.json, proofKey)
	if !value.Exists() {
		return b, p, false, nil
	}
	p, err = ReadProof([]byte(value.Raw))
	before, found := cutKey(b.json[:value.Index])
	if err != nil || !found {
		return nil, p, true, BadRequest(spec.ErrorBadJSON, "relay_proof can't be read")
	}
	rest, more := bytes.CutPrefix(bytes.TrimLeft(b.json[value.Index+len(value.Raw):], space), []byte(`,`))
	if !more { // it was the last
		before = bytes.TrimSuffix(bytes.TrimRight(before, space), []byte(`,`))
	}
	transaction = NewBody(append(before[:len(before):len(before)], rest...))
	if b.canonical { // then it still is, and has the same fields
		transaction.isScanned, transaction.canonical, transaction.fields = true, true, b.fields
		transaction.fields.hasProof = false
	}
	return transaction, p, true, nil
}

// cutKey takes the key of the proof, as everybody spells it, off the end.
func cutKey(body []byte) (before []byte, found bool) {
	key, found := bytes.CutSuffix(bytes.TrimRight(body, space), []byte(`:`))
	if !found {
		return nil, false
	}
	return bytes.CutSuffix(bytes.TrimRight(key, space), []byte(`"`+proofKey+`"`))
}

const (
	proofKey = "relay_proof"
	space    = " \t\r\n" // in JSON
)
