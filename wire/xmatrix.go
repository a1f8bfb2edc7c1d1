package wire

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
	"github.com/sirupsen/logrus"
)

// A SignedRequest is all that an X-Matrix signature covers, and the signatures.
// Its header and body are kept once they were read, so that nothing is read twice: it isn't
// safe for concurrent use, and its fields must not be changed after the first.
type SignedRequest struct {
	Method string

	// URI is the path and query as they were sent: see SignedURI.
	URI string

	// Authorization are the values of the Authorization headers.
	Authorization []string

	// Content is the body: JSON. It may come after Claimed.
	Content []byte

	parsed *xMatrix // of Authorization, once it was read
	body   *Body    // of Content, likewise
}

// header reads Authorization.
func (r *SignedRequest) header() (xMatrix, error) {
	if r.parsed != nil {
		return *r.parsed, nil
	}
	header, err := parseAuthorization(r.Authorization)
	if err == nil {
		r.parsed = &header
	}
	return header, err
}

// Body is the Content, and all that is known of it.
func (r *SignedRequest) Body() *Body {
	if r.body == nil {
		r.body = NewBody(r.Content)
	}
	return r.body
}

// A Verifier checks X-Matrix signatures of requests to one server. It accepts
// the same requests as fclient.VerifyHTTPRequest, apart from bodies that go over
// MaxDepth or MaxWidth and requests with more than a few signatures.
type Verifier struct {
	// ServerName is the server that requests are for. If IsLocal isn't nil, it
	// says which destinations they may name instead.
	ServerName spec.ServerName
	IsLocal    func(spec.ServerName) bool

	// Keys checks signatures. A KnownKeys makes it several times faster.
	Keys gomatrixserverlib.JSONVerifier
}

// Claimed returns the server that says it signed the request, unchecked. The
// error is an *Error, 401.
func (r *SignedRequest) Claimed() (spec.ServerName, error) {
	header, err := r.header()
	return header.origin, err
}

// CheckContentType refuses every type but application/json, as fclient does. The
// error is an *Error, 400.
func CheckContentType(contentType string) error {
	if media, _, err := mime.ParseMediaType(contentType); err != nil || media != "application/json" {
		return BadRequest(spec.ErrorNotJSON, "the Content-Type must be application/json")
	}
	return nil
}

// Verify returns the server that signed the request, whose key must have been
// valid at that time. The error is an *Error: 401 M_UNAUTHORIZED if the
// signature isn't right or for another server, 400 M_NOT_JSON or M_BAD_JSON if
// the content can't be the signed one, 503 M_UNKNOWN if no key that was valid
// then can be had (see ErrNoKey); or another error if looking for keys failed.
func (v *Verifier) Verify(ctx context.Context, r *SignedRequest, at time.Time) (spec.ServerName, error) {
	if err := v.CheckHeader(r); err != nil {
		return "", err
	}
	header, err := r.header()
	if err != nil {
		return "", err
	}
	key, known := v.knownKey(r, header)
	if !known || !r.Body().HasForm() {
		return v.verifySlowly(ctx, r, at)
	}
	content, err := r.Body().canonicalForm()
	if err != nil {
		return "", err // it has one
	}
	if header.destination == "" {
		header.destination = v.ServerName
	}
	covered := signedMessage{content.json, header.destination, r.Method, header.origin, r.URI}
	if !covered.verify(key, header.signature) {
		return "", errWrongSignature
	}
	return header.origin, nil
}

var errWrongSignature = unauthorized("the request's signature is wrong")

// CheckHeader refuses requests that Verify would refuse with any content, as far as that
// is certain: so they needn't be read. The error is an *Error, 401.
func (v *Verifier) CheckHeader(r *SignedRequest) error {
	header, err := r.header()
	if err != nil {
		return err
	}
	if !v.isForUs(header.destination) {
		return unauthorized("the request is signed for another server")
	}
	if _, known := v.knownKey(r, header); known && !isSignature(header.signature) {
		return errWrongSignature
	}
	return nil
}

// isSignature reports whether a signature can be that of a message. Its second half is
// a number that is taken modulo the order of a group, 0 with no key.
func isSignature(signature []byte) bool {
	const tooLarge = 0xe0 // bits over those of the order
	if len(signature) != ed25519.SignatureSize || signature[ed25519.SignatureSize-1]&tooLarge != 0 {
		return false
	}
	return !bytes.Equal(signature[ed25519.SignatureSize/2:], make([]byte, ed25519.SignatureSize/2))
}

func (v *Verifier) isForUs(destination spec.ServerName) bool {
	if v.IsLocal != nil && destination != "" {
		return v.IsLocal(destination)
	}
	return destination == "" || destination == v.ServerName
}

// IsKeyKnown reports whether Verify checks the request itself, if the canonical form of
// its Body is certain. If the body came in it, it takes no memory to speak of. If it
// leaves the check to fclient, that takes many times the memory of the content.
func (v *Verifier) IsKeyKnown(r *SignedRequest) bool {
	header, err := r.header()
	if err != nil {
		return true // it is refused
	}
	_, known := v.knownKey(r, header)
	return known
}

// knownKey returns the key for the requests that nearly all are: with one
// signature, of a known key.
func (v *Verifier) knownKey(r *SignedRequest, header xMatrix) (key ed25519.PublicKey, known bool) {
	keys, ok := v.Keys.(KnownKeys)
	if !ok || header.count != 1 {
		return nil, false
	}
	if key, ok = keys.KnownKey(header.origin, header.keyID); !ok {
		return nil, false
	}
	plain := isPlain(string(header.origin)) && isPlain(string(header.destination)) && isPlain(r.Method) && isPlain(r.URI)
	return key, plain && isPlain(string(v.ServerName))
}

// A signedMessage holds all that an X-Matrix signature covers: canonical content and
// plain strings.
type signedMessage struct {
	content     []byte
	destination spec.ServerName
	method      string
	origin      spec.ServerName
	uri         string
}

// append appends the message in canonical JSON.
func (m *signedMessage) append(message []byte) []byte {
	message = append(append(message, `{"content":`...), m.content...)
	message = append(append(message, `,"destination":"`...), m.destination...)
	message = append(append(message, `","method":"`...), m.method...)
	message = append(append(message, `","origin":"`...), m.origin...)
	message = append(append(message, `","uri":"`...), m.uri...)
	return append(message, `"}`...)
}

// messages are buffers in which messages are put together, none of them large.
var messages = sync.Pool{New: func() any { return new([]byte) }}

const maxPooled = 64 << 10

func (m *signedMessage) verify(key ed25519.PublicKey, signature []byte) bool {
	buffer := messages.Get().(*[]byte)
	message := m.append((*buffer)[:0])
	if cap(message) <= maxPooled {
		*buffer = message
		defer messages.Put(buffer)
	}
	return ed25519.Verify(key, message, signature)
}

// isPlain reports whether s stands in canonical JSON as it is.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// verifySlowly asks fclient.
func (v *Verifier) verifySlowly(ctx context.Context, r *SignedRequest, at time.Time) (spec.ServerName, error) {
	if err := r.Body().check(); err != nil {
		return "", err
	}
	u, err := url.ParseRequestURI(r.URI)
	if err != nil {
		return "", BadRequest(spec.ErrorInvalidParam, "the request URI can't be parsed")
	}
	request := (&http.Request{
		Method: r.Method,
		URL:    u,
		Header: http.Header{"Authorization": r.Authorization, "Content-Type": {"application/json"}},
		Body:   io.NopCloser(bytes.NewReader(r.Content)),
	}).WithContext(util.ContextWithLogger(ctx, silence))
	keys := &watchedKeys{JSONVerifier: v.Keys}
	signed, answer := fclient.VerifyHTTPRequest(request, at, v.ServerName, v.IsLocal, keys)
	switch {
	case signed != nil:
		return signed.Origin(), nil
	case keys.err != nil:
		return "", fmt.Errorf("wire: looking up the keys of the signing server: %w", keys.err)
	case keys.missing:
		return "", KeyUnavailable()
	case answer.Code == http.StatusUnauthorized:
		return "", unauthorized("the request's signature is missing, wrong or not valid now")
	default:
		return "", BadRequest(spec.ErrorNotJSON, "the body isn't JSON, or the Authorization header can't be read")
	}
}

// watchedKeys keeps errors that fclient only logs, and whether a key was
// missing.
type watchedKeys struct {
	gomatrixserverlib.JSONVerifier
	err     error
	missing bool
}

func (w *watchedKeys) VerifyJSONs(ctx context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	results, err := w.JSONVerifier.VerifyJSONs(ctx, requests)
	w.err = err
	for _, result := range results {
		w.missing = w.missing || result.Error != nil && isKeyMissing(result.Error)
	}
	return results, err
}

// silence is the log for fclient: strangers could fill any other log.
var silence = logrus.NewEntry(&logrus.Logger{Out: io.Discard, Formatter: &logrus.TextFormatter{}, Level: logrus.PanicLevel})

// xMatrix is the content of a request's X-Matrix headers. KeyID and signature
// are those of the last, and mean something only if it is the only one.
type xMatrix struct {
	count               int
	origin, destination spec.ServerName
	keyID               gomatrixserverlib.KeyID
	signature           spec.Base64Bytes
}

// parseAuthorization reads headers as fclient does: other schemes are passed
// over, all must have the same origin, and the last destination counts. A
// signature that isn't base64 is left empty.
func parseAuthorization(headers []string) (xMatrix, error) {
	var x xMatrix
	for _, header := range headers {
		scheme, origin, destination, keyID, signature := fclient.ParseAuthorization(header)
		if scheme != "X-Matrix" {
			continue
		}
		if origin == "" || keyID == "" || signature == "" {
			return xMatrix{}, unauthorized("the X-Matrix header lacks origin, key or sig")
		}
		if err := CheckName(origin); err != nil {
			return xMatrix{}, unauthorized("the origin in the X-Matrix header: " + err.Error())
		}
		if x.count > 0 && x.origin != origin {
			return xMatrix{}, unauthorized("the X-Matrix headers have different origins")
		}
		if x.count++; x.count > maxSignatures {
			return xMatrix{}, unauthorized("too many X-Matrix headers")
		}
		x.origin, x.destination, x.keyID, x.signature = origin, destination, keyID, nil
		if x.signature.Decode(signature) != nil {
			x.signature = nil
		}
	}
	if x.count == 0 {
		return xMatrix{}, unauthorized("the request has no X-Matrix authorization")
	}
	return x, nil
}
