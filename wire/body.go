package wire

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A Body is the JSON of a request or a transaction, and all that is known of it:
// nothing in it is read twice. Make one with NewBody. It isn't safe for
// concurrent use.
type Body struct {
	json []byte

	isScanned, canonical bool
	fields               fields // if it is canonical

	isFormed bool
	formed   *Body // the canonical form, nil if form isn't sure

	isChecked bool
	checked   error // by check

	isRead     bool
	content    Content
	contentErr error
}

// NewBody returns a Body of which nothing is known yet. The JSON must not be
// changed afterwards.
func NewBody(json []byte) *Body { return &Body{json: json} }

// JSON is the body as it came.
func (b *Body) JSON() []byte { return b.json }

// IsCanonical reports whether the body is a JSON object that is certain to be
// Matrix canonical JSON. To find out takes no memory to speak of.
func (b *Body) IsCanonical() bool {
	if !b.isScanned {
		b.isScanned, b.canonical = true, b.fields.scan(b.json)
	}
	return b.canonical
}

// HasForm reports whether the canonical form of the body is certain, and makes it. All
// that is asked of the body later is read from it. Where it isn't certain, everything
// is left to decoders, which takes many times the memory of the body, again and again.
func (b *Body) HasForm() bool {
	if b.IsCanonical() {
		return true
	}
	if !b.isFormed {
		b.isFormed = true
		if json, ok := form(b.json); ok {
			b.formed = NewBody(json)
			if !b.formed.IsCanonical() { // certain to be
				b.formed = nil
			}
		}
	}
	return b.formed != nil
}

// check refuses JSON that no decoder should be given.
func (b *Body) check() error {
	switch {
	case b.isChecked || b.canonical:
	case !utf8.Valid(b.json):
		b.checked = BadRequest(spec.ErrorNotJSON, "the body isn't UTF-8")
	case !hasGoodShape(b.json):
		b.checked = BadRequest(spec.ErrorBadJSON, fmt.Sprintf("the body nests deeper than %d, or has a list of more than %d", MaxDepth, MaxWidth))
	}
	b.isChecked = true
	return b.checked
}

// canonical returns the canonical form of the body, provided that it is JSON
// that everybody reads alike. Some other contents can have the same form (-0.5
// has that of 0.5), so nothing but this form may be taken for signed.
func (b *Body) canonicalForm() (*Body, error) {
	if b.IsCanonical() {
		return b, nil
	}
	if b.HasForm() {
		return b.formed, nil
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	json, err := gomatrixserverlib.CanonicalJSON(b.json)
	if err != nil {
		return nil, fmt.Errorf("the transaction isn't JSON: %w", err)
	}
	canonical := NewBody(json)
	if !canonical.IsCanonical() {
		return nil, errors.New("the transaction has keys that need escapes")
	}
	return canonical, nil
}

// Content reads the body as that of a transaction, and checks that a node can
// decode it. The error is an *Error, 400 M_NOT_JSON or M_BAD_JSON.
//
// Since one body that a node can't decode would block its mailbox for good,
// everything that gomatrixserverlib.Transaction gives a type is checked. A key
// of the transaction in another case or twice is refused, because decoders
// read it differently.
func (b *Body) Content() (Content, error) {
	if !b.IsCanonical() && b.HasForm() {
		return b.formed.Content()
	}
	if !b.isRead {
		b.content, b.contentErr = b.readContent()
		b.isRead = true
	}
	return b.content, b.contentErr
}
