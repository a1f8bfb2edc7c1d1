package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
)

// A Content has the parts of a transaction's body that a relay needs to know; the
// rest of it is carried as it is.
type Content struct {
	// Origin is the origin that the body claims; HasOrigin says whether it claims any.
	Origin    spec.ServerName
	HasOrigin bool

	// OriginServerTS is when the origin says that it made it, 0 if it doesn't.
	OriginServerTS spec.Timestamp

	// PDUs and EDUs count the events.
	PDUs, EDUs int

	// Digest is the SHA-256 of {"edus":[...],"pdus":[...]} in canonical JSON,
	// with an empty list where the body has none or null. Two sendings of a
	// transaction ID are the same mail exactly if their digests are: time
	// stamps differ between retries, lists of events between contents.
	Digest [sha256.Size]byte
}

// ReadContent reads the body of a transaction: see Body.Content.
func ReadContent(body []byte) (Content, error) { return NewBody(body).Content() }

func (b *Body) readContent() (Content, error) {
	if !b.IsCanonical() {
		if err := b.check(); err != nil {
			return Content{}, err
		}
		if !json.Valid(b.json) {
			return Content{}, BadRequest(spec.ErrorNotJSON, "the body isn't JSON")
		}
		b.fields = fields{}
		b.fields.read(b.json)
	}
	content, err := b.fields.content(b.canonical)
	if err != nil {
		return Content{}, BadRequest(spec.ErrorBadJSON, err.Error())
	}
	return content, nil
}

func (f *fields) content(canonical bool) (Content, error) {
	c := Content{HasOrigin: f.origin != nil}
	if f.err != nil {
		return c, f.err
	}
	if f.pdus.raw == nil {
		return c, errors.New("pdus is missing")
	}
	if err := decode("origin", f.origin, &c.Origin); err != nil {
		return c, err
	}
	if err := decode("origin_server_ts", f.originServerTS, &c.OriginServerTS); err != nil {
		return c, err
	}
	if err := f.pdus.check("pdus", MaxPDUs, checkPDU); err != nil {
		return c, err
	}
	if err := f.edus.check("edus", MaxEDUs, checkEDU); err != nil {
		return c, err
	}
	c.PDUs, c.EDUs = len(f.pdus.items), len(f.edus.items)
	var err error
	c.Digest, err = f.digest(canonical)
	return c, err
}

func decode(name string, raw []byte, into any) error {
	if raw == nil {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s has the wrong type", name)
	}
	return nil
}

// checkPDU wants an object and no more: its content depends on its room's
// version.
func checkPDU(raw []byte) error {
	if !isObject(raw) {
		return errors.New("a PDU isn't an object")
	}
	return nil
}

func checkEDU(raw []byte) error {
	if !isObject(raw) || json.Unmarshal(raw, new(gomatrixserverlib.EDU)) != nil {
		return errors.New("an EDU can't be decoded")
	}
	return nil
}

func isObject(raw []byte) bool { return len(raw) > 0 && raw[0] == '{' }

// check says whether it is a list of at most so many items that are right; null
// and nothing have none.
func (l *list) check(name string, most int, check func([]byte) error) error {
	if !l.isNull() && l.raw[0] != '[' {
		return fmt.Errorf("%s isn't a list", name)
	}
	for i, item := range l.items {
		if i == most {
			return fmt.Errorf("%s has more than %d items", name, most)
		}
		if err := check(item); err != nil {
			return err
		}
	}
	return nil
}

func (l *list) isNull() bool { return l.raw == nil || l.raw[0] == 'n' }

func (f *fields) digest(canonical bool) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	for _, part := range []struct {
		before string
		list   *list
	}{{`{"edus":`, &f.edus}, {`,"pdus":`, &f.pdus}} {
		raw := part.list.raw
		switch {
		case part.list.isNull():
			raw = []byte("[]")
		case !canonical:
			if raw, err = gomatrixserverlib.CanonicalJSON(raw); err != nil {
				return sum, fmt.Errorf("no canonical form: %w", err)
			}
		}
		h.Write([]byte(part.before)) // a hash never fails
		h.Write(raw)
	}
	h.Write([]byte("}"))
	h.Sum(sum[:0])
	return sum, nil
}

// WithOrigin returns a transaction's body with the origin in it: body itself
// if it has one, else a copy that begins with it. Body must have passed
// ReadContent.
func WithOrigin(body []byte, origin spec.ServerName) []byte {
	if gjson.GetBytes(body, "origin").Exists() {
		return body
	}
	name, err := json.Marshal(origin)
	if err != nil { // a string: can't be
		return body
	}
	start := bytes.IndexByte(body, '{') + 1
	out := make([]byte, 0, len(body)+len(name)+len(`"origin":,`))
	out = append(append(out, body[:start]...), `"origin":`...)
	out = append(append(out, name...), ',')
	return append(out, body[start:]...)
}
