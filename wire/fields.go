package wire

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"
)

// fields are the values of a transaction that have a type, as JSON, nil where there
// is none.
type fields struct {
	origin, originServerTS []byte
	pdus, edus             list
	hasProof               bool  // if it was scanned
	err                    error // why decoders would differ
}

// A list is a value that should be one, and its items, at most one more than
// any list may have.
type list struct {
	raw   []byte
	items [][]byte
}

const maxItems = max(MaxPDUs, MaxEDUs)

func (l *list) add(item []byte) (more bool) {
	if l.items == nil {
		l.items = make([][]byte, 0, 8)
	}
	l.items = append(l.items, item)
	return len(l.items) <= maxItems
}

// scan finds the fields while it scans body, and reports whether that is
// canonical: see scanner. If it isn't, the fields mean nothing.
func (f *fields) scan(body []byte) (canonical bool) {
	s := scanner{in: body}
	return s.isUTF8Object() && s.object(1, func(key []byte) bool {
		start := s.pos
		if !s.member(f.list(string(key))) {
			return false
		}
		f.set(string(key), body[start:s.pos])
		f.hasProof = f.hasProof || string(key) == proofKey
		return true
	}) && s.pos == len(body)
}

// member scans a value of the transaction.
func (s *scanner) member(l *list) bool {
	if l == nil || s.peek() != '[' {
		return s.value(1)
	}
	return s.array(2, func() bool {
		start := s.pos
		if !s.value(2) {
			return false
		}
		if len(l.items) <= maxItems {
			l.add(s.in[start:s.pos])
		}
		return true
	})
}

// read finds the fields in valid JSON of any form.
func (f *fields) read(body []byte) {
	object := gjson.ParseBytes(body)
	if !object.IsObject() {
		f.err = errors.New("the body isn't a JSON object")
		return
	}
	object.ForEach(func(key, value gjson.Result) bool {
		f.set(key.String(), []byte(value.Raw))
		if l := f.list(key.String()); l != nil && f.err == nil && value.IsArray() {
			value.ForEach(func(_, item gjson.Result) bool { return l.add([]byte(item.Raw)) })
		}
		return f.err == nil
	})
}

// list is the list of that name, or nil.
func (f *fields) list(key string) *list {
	switch key {
	case "pdus":
		return &f.pdus
	case "edus":
		return &f.edus
	}
	return nil
}

func (f *fields) place(key string) *[]byte {
	if l := f.list(key); l != nil {
		return &l.raw
	}
	switch key {
	case "origin":
		return &f.origin
	case "origin_server_ts":
		return &f.originServerTS
	}
	return nil
}

func (f *fields) set(key string, value []byte) {
	if place := f.place(key); place != nil {
		if *place != nil {
			f.fail(fmt.Errorf("%q is there twice", key))
		}
		*place = value
		return
	}
	// encoding/json, which nodes decode with, takes keys in any case.
	for _, known := range []string{"origin", "origin_server_ts", "pdus", "edus"} {
		if strings.EqualFold(key, known) {
			f.fail(fmt.Errorf("%q must be written %q", key, known))
		}
	}
}

// fail keeps the first reason.
func (f *fields) fail(err error) {
	if f.err == nil {
		f.err = err
	}
}
