package wire

import (
	"bytes"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// A former writes the canonical form of JSON in one pass, as
// gomatrixserverlib.CanonicalJSON would, in a fraction of its time and memory: that
// copies each value once for each level above it, several times.
//
// Its methods return false for bytes that aren't JSON and whenever they aren't sure:
// for all that the scanner isn't sure of, keys that are there twice and halves of
// surrogates. The fuzz tests hold it against gomatrixserverlib.
type former struct {
	scanner
	out     []byte
	members []member // of the objects that are open
	sorted  []byte   // scratch
}

// A member is a key of an object, and both with its value, as positions in out.
type member struct{ start, keyEnd, end int }

// form returns the canonical form of a JSON object, ok false if it isn't sure.
func form(body []byte) (canonical []byte, ok bool) {
	f := former{scanner: scanner{in: body}}
	if !utf8.Valid(body) {
		return nil, false
	}
	f.skipSpace()
	if f.peek() != '{' {
		return nil, false
	}
	f.out = make([]byte, 0, len(body)) // no form is longer
	if !f.value(0) {
		return nil, false
	}
	f.skipSpace()
	return f.out, f.pos == len(body)
}

func (f *former) skipSpace() {
	for f.pos < len(f.in) && (f.in[f.pos] == ' ' || f.in[f.pos] == '\n' || f.in[f.pos] == '\t' || f.in[f.pos] == '\r') {
		f.pos++
	}
}

// next passes over space and c, if it is there.
func (f *former) next(c byte) bool {
	f.skipSpace()
	return f.accept(c)
}

// copyFrom copies the bytes that were read since start.
func (f *former) copyFrom(start int) { f.out = append(f.out, f.in[start:f.pos]...) }

func (f *former) value(depth int) bool {
	f.skipSpace()
	start := f.pos
	switch f.peek() {
	case '"':
		return f.text()
	case '{':
		return depth < MaxDepth && f.object(depth+1)
	case '[':
		return depth < MaxDepth && f.array(depth+1)
	case 't', 'f', 'n':
		if !f.word("true") && !f.word("false") && !f.word("null") {
			return false
		}
	default:
		return f.number()
	}
	f.copyFrom(start)
	return true
}

func (f *former) array(depth int) bool {
	f.pos++
	f.out = append(f.out, '[')
	if f.next(']') {
		f.out = append(f.out, ']')
		return true
	}
	for range MaxWidth {
		if !f.value(depth) {
			return false
		}
		if !f.next(',') {
			f.out = append(f.out, ']')
			return f.accept(']')
		}
		f.out = append(f.out, ',')
	}
	return false
}

// object writes the members in the order of the input, and then sorts them.
func (f *former) object(depth int) bool {
	f.pos++
	f.out = append(f.out, '{')
	if f.next('}') {
		f.out = append(f.out, '}')
		return true
	}
	first := len(f.members)
	defer func() { f.members = f.members[:first] }()
	for range MaxWidth {
		if !f.member(depth) {
			return false
		}
		if !f.next(',') {
			f.out = append(f.out, '}')
			return f.accept('}') && f.sort(f.members[first:])
		}
		f.out = append(f.out, ',')
	}
	return false
}

func (f *former) member(depth int) bool {
	f.skipSpace()
	m := member{start: len(f.out)}
	start := f.pos
	if !f.scanner.text(false) {
		return false
	}
	f.copyFrom(start)
	m.keyEnd = len(f.out) - 1 // without its quote, which would sort after a space
	if !f.next(':') {
		return false
	}
	f.out = append(f.out, ':')
	if !f.value(depth) {
		return false
	}
	m.end = len(f.out)
	f.members = append(f.members, m)
	return true
}

// sort puts an object's members in out into order. Nothing is moved if they are.
func (f *former) sort(members []member) bool {
	start, end := members[0].start, members[len(members)-1].end
	key := func(m member) []byte { return f.out[m.start:m.keyEnd] }
	byKey := func(a, b member) int { return bytes.Compare(key(a), key(b)) }
	inOrder := slices.IsSortedFunc(members, byKey)
	if !inOrder {
		slices.SortFunc(members, byKey)
	}
	for i := 1; i < len(members); i++ {
		if bytes.Equal(key(members[i-1]), key(members[i])) {
			return false
		}
	}
	if inOrder {
		return true
	}
	f.sorted = f.sorted[:0]
	for i, m := range members {
		if i > 0 {
			f.sorted = append(f.sorted, ',')
		}
		f.sorted = append(f.sorted, f.out[m.start:m.end]...)
	}
	copy(f.out[start:end], f.sorted)
	return true
}

// number drops the minus of every -0, as gomatrixserverlib does.
func (f *former) number() bool {
	start := f.pos
	f.accept('-')
	switch c := f.peek(); {
	case c == '0':
		f.pos++
	case c >= '1' && c <= '9':
		f.digits()
	default:
		return false
	}
	if f.accept('.') && !f.digits() {
		return false
	}
	if f.accept('e') || f.accept('E') {
		if !f.accept('+') {
			f.accept('-')
		}
		if !f.digits() {
			return false
		}
	}
	for i := start; i < f.pos; i++ {
		if f.in[i] == '-' && f.in[i+1] == '0' {
			continue
		}
		f.out = append(f.out, f.in[i])
	}
	return true
}

// text writes a string with the shortest form of every escape.
func (f *former) text() bool {
	start := f.pos
	f.pos++
	for {
		f.pos += plainLength(f.in[f.pos:])
		switch c := f.peek(); {
		case c < ' ': // the end, too
			return false
		case c == '"':
			f.pos++
			f.copyFrom(start)
			return true
		case c != '\\':
			f.pos++
		default:
			f.copyFrom(start)
			if !f.escape() {
				return false
			}
			start = f.pos
		}
	}
}

func (f *former) escape() bool {
	rest := f.in[f.pos:]
	if len(rest) < 2 {
		return false
	}
	f.pos += 2
	switch c := rest[1]; c {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		f.out = append(f.out, '\\', c)
		return true
	case '/':
		f.out = append(f.out, '/')
		return true
	case 'u':
		return f.character()
	}
	return false
}

// character writes the character that \u stands for.
func (f *former) character() bool {
	c, ok := f.hex()
	if !ok {
		return false
	}
	if utf16.IsSurrogate(c) {
		if !f.word(`\u`) {
			return false
		}
		low, ok := f.hex()
		if c = utf16.DecodeRune(c, low); !ok || c == utf8.RuneError {
			return false
		}
	}
	switch short := "uuuuuuuubtnufr"; {
	case c == '"' || c == '\\':
		f.out = append(f.out, '\\', byte(c))
	case c >= ' ':
		f.out = utf8.AppendRune(f.out, c)
	case int(c) < len(short) && short[c] != 'u':
		f.out = append(f.out, '\\', short[c])
	default:
		f.out = append(f.out, '\\', 'u', '0', '0', '0'+byte(c>>4), "0123456789abcdef"[c&15])
	}
	return true
}

// hex reads four digits.
func (f *former) hex() (c rune, ok bool) {
	if len(f.in)-f.pos < 4 {
		return 0, false
	}
	for _, d := range f.in[f.pos : f.pos+4] {
		switch {
		case d >= '0' && d <= '9':
			d -= '0'
		case d >= 'a' && d <= 'f', d >= 'A' && d <= 'F':
			d = d&0x0f + 9
		default:
			return 0, false
		}
		c = c<<4 | rune(d)
	}
	f.pos += 4
	return c, true
}
