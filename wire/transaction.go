package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"strings"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
)

// A Content is what a relay needs to know of a transaction's body; the rest of
// it is carried as it is.
type Content struct {
	// Origin is what the body claims; HasOrigin says whether it claims any.
	Origin    spec.ServerName
	HasOrigin bool

	// PDUs and EDUs count the events.
	PDUs, EDUs int

	// Digest is the SHA-256 of {"edus":[...],"pdus":[...]} in canonical JSON,
	// with an empty list where the body has none or null. Two sendings of a
	// transaction ID are the same mail exactly if their digests are: time
	// stamps differ between retries, lists of events between contents.
	Digest [sha256.Size]byte

	// Canonical says that the body is certain to be canonical JSON as it is.
	Canonical bool
}

// ReadContent checks that body is a transaction that a node can decode, and
// returns what it says. The error is an *Error, 400 M_NOT_JSON or M_BAD_JSON.
//
// Since one body that a node can't decode would block its mailbox for good,
// everything that gomatrixserverlib.Transaction gives a type is checked. A key
// of the transaction in another case or twice is refused, because decoders
// differ in what they make of it.
func ReadContent(body []byte) (Content, error) {
	canonical := isCanonical(body)
	if !canonical {
		if err := checkContent(body); err != nil {
			return Content{}, err
		}
		if !json.Valid(body) {
			return Content{}, BadRequest(spec.ErrorNotJSON, "the body isn't JSON")
		}
	}
	fields, err := readFields(body)
	if err != nil {
		return Content{}, BadRequest(spec.ErrorBadJSON, err.Error())
	}
	content, err := fields.content(canonical)
	if err != nil {
		return Content{}, BadRequest(spec.ErrorBadJSON, err.Error())
	}
	return content, nil
}

// fields are the values of a transaction's body that have a type.
type fields struct {
	origin, originServerTS, pdus, edus string
}

func (f *fields) place(key string) *string {
	switch key {
	case "origin":
		return &f.origin
	case "origin_server_ts":
		return &f.originServerTS
	case "pdus":
		return &f.pdus
	case "edus":
		return &f.edus
	}
	return nil
}

// readFields finds the fields in valid JSON.
func readFields(body []byte) (fields, error) {
	var f fields
	object := gjson.ParseBytes(body)
	if !object.IsObject() {
		return f, fmt.Errorf("the body isn't a JSON object")
	}
	var err error
	object.ForEach(func(key, value gjson.Result) bool {
		err = f.set(key.String(), value.Raw)
		return err == nil
	})
	return f, err
}

func (f *fields) set(key, value string) error {
	if place := f.place(key); place != nil {
		if *place != "" {
			return fmt.Errorf("%q is there twice", key)
		}
		*place = value
		return nil
	}
	// encoding/json, which nodes decode with, takes keys in any case.
	for _, known := range []string{"origin", "origin_server_ts", "pdus", "edus"} {
		if strings.EqualFold(key, known) {
			return fmt.Errorf("%q must be written %q", key, known)
		}
	}
	return nil
}

func (f *fields) content(canonical bool) (Content, error) {
	c := Content{HasOrigin: f.origin != "", Canonical: canonical}
	if f.pdus == "" {
		return c, fmt.Errorf("pdus is missing")
	}
	if err := decode("origin", f.origin, &c.Origin); err != nil {
		return c, err
	}
	if err := decode("origin_server_ts", f.originServerTS, new(spec.Timestamp)); err != nil {
		return c, err
	}
	var err error
	if c.PDUs, err = countList("pdus", f.pdus, MaxPDUs, checkPDU); err != nil {
		return c, err
	}
	if c.EDUs, err = countList("edus", f.edus, MaxEDUs, checkEDU); err != nil {
		return c, err
	}
	c.Digest, err = digest(f.pdus, f.edus, canonical)
	return c, err
}

func decode(name, raw string, into any) error {
	if raw == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(raw), into); err != nil {
		return fmt.Errorf("%s has the wrong type", name)
	}
	return nil
}

// checkPDU wants an object and no more: what is in it depends on its room's
// version.
func checkPDU(raw []byte) error {
	if len(raw) == 0 || raw[0] != '{' {
		return fmt.Errorf("a PDU isn't an object")
	}
	return nil
}

func checkEDU(raw []byte) error {
	if len(raw) == 0 || raw[0] != '{' || json.Unmarshal(raw, new(gomatrixserverlib.EDU)) != nil {
		return fmt.Errorf("an EDU can't be decoded")
	}
	return nil
}

// countList counts the items of a JSON array; null and nothing have none.
func countList(name, raw string, most int, check func([]byte) error) (count int, err error) {
	if isNull(raw) {
		return 0, nil
	}
	list := gjson.Parse(raw)
	if !list.IsArray() {
		return 0, fmt.Errorf("%s isn't a list", name)
	}
	list.ForEach(func(_, item gjson.Result) bool {
		if count++; count > most {
			err = fmt.Errorf("%s has more than %d items", name, most)
		} else {
			err = check([]byte(item.Raw))
		}
		return err == nil
	})
	return count, err
}

func isNull(raw string) bool { return raw == "" || raw[0] == 'n' }

func digest(pdus, edus string, canonical bool) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	for _, list := range []struct{ before, raw string }{{`{"edus":`, edus}, {`,"pdus":`, pdus}} {
		writeString(h, list.before)
		switch {
		case isNull(list.raw):
			writeString(h, "[]")
		case canonical:
			writeString(h, list.raw)
		default:
			raw, err := gomatrixserverlib.CanonicalJSON([]byte(list.raw))
			if err != nil {
				return sum, fmt.Errorf("no canonical form: %w", err)
			}
			h.Write(raw) // a hash never fails
		}
	}
	writeString(h, "}")
	h.Sum(sum[:0])
	return sum, nil
}

// writeString hashes a long string without a copy of all of it.
func writeString(h hash.Hash, s string) {
	var piece [4096]byte
	for len(s) > 0 {
		n := copy(piece[:], s)
		h.Write(piece[:n]) // a hash never fails
		s = s[n:]
	}
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
