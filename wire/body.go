package wire

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A Body is the JSON of a request or a transaction, and what has been learnt of
// it: nothing in it is read twice. Make one with NewBody. It isn't safe for
// concurrent use.
type Body struct {
	json []byte

	form   form
	fields fields // if form is canonicalForm
	sound  *error // of checkContent, once that has run

	content    *Content // once it was read
	contentErr error
}

// A form says whether JSON is canonical.
type form byte

const (
	unknownForm form = iota
	canonicalForm
	otherForm
)

// NewBody returns a Body of which nothing is known yet. The JSON must not be
// changed afterwards.
func NewBody(json []byte) *Body { return &Body{json: json} }

// JSON is the body as it came.
func (b *Body) JSON() []byte { return b.json }

// isCanonical reports whether the body is a JSON object that is certain to be
// Matrix canonical JSON: see scanner.
func (b *Body) isCanonical() bool {
	if b.form == unknownForm {
		b.form = otherForm
		if b.fields.scan(b.json) {
			b.form = canonicalForm
		}
	}
	return b.form == canonicalForm
}

// checkContent refuses what no decoder should be given.
func (b *Body) checkContent() error {
	if b.form == canonicalForm {
		return nil
	}
	if b.sound == nil {
		err := checkContent(b.json)
		b.sound = &err
	}
	return *b.sound
}

func checkContent(content []byte) error {
	if !utf8.Valid(content) {
		return BadRequest(spec.ErrorNotJSON, "the body isn't UTF-8")
	}
	if !hasGoodShape(content) {
		return BadRequest(spec.ErrorBadJSON, fmt.Sprintf("the body nests deeper than %d, or has a list of more than %d", MaxDepth, MaxWidth))
	}
	return nil
}

// canonical returns the canonical form of the body, provided that it is JSON
// that everybody reads alike. Some other contents can have the same form (-0.5
// has that of 0.5), so nothing but this form may be taken for signed.
func (b *Body) canonical() (*Body, error) {
	if b.isCanonical() {
		return b, nil
	}
	if err := b.checkContent(); err != nil {
		return nil, err
	}
	json, err := gomatrixserverlib.CanonicalJSON(b.json)
	if err != nil {
		return nil, fmt.Errorf("the transaction isn't JSON: %w", err)
	}
	canonical := NewBody(json)
	if !canonical.isCanonical() {
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
// differ in what they make of it.
func (b *Body) Content() (Content, error) {
	if b.content == nil {
		content, err := b.readContent()
		b.content, b.contentErr = &content, err
	}
	return *b.content, b.contentErr
}
