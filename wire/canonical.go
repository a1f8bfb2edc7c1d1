package wire

import (
	"encoding/binary"
	"unicode/utf8"
)

// A scanner reads JSON that is certain to be Matrix canonical JSON already, so
// that gomatrixserverlib.CanonicalJSON would return it unchanged. Senders that
// use gomatrixserverlib send that form, since signing produces it, and then
// nothing needs to be encoded again to check the signature.
//
// Its methods return false at the first byte that doesn't fit, and whenever they
// aren't sure: besides JSON that isn't canonical, for escapes in keys and for bodies
// over MaxDepth or MaxWidth. A no costs time only; a wrong yes would accept requests
// that fclient refuses, so the fuzz tests hold it against gomatrixserverlib.
type scanner struct {
	in  []byte
	pos int
}

// isUTF8Object looks at all but the JSON.
func (s *scanner) isUTF8Object() bool { return s.peek() == '{' && utf8.Valid(s.in) }

// peek returns the next byte, 0 at the end: no JSON has that outside a string.
func (s *scanner) peek() byte {
	if s.pos < len(s.in) {
		return s.in[s.pos]
	}
	return 0
}

func (s *scanner) accept(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.pos++
	return true
}

func (s *scanner) value(depth int) bool {
	switch s.peek() {
	case '"':
		return s.text(true)
	case '{':
		return depth < MaxDepth && s.object(depth+1, nil)
	case '[':
		return depth < MaxDepth && s.array(depth+1, nil)
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

// object accepts keys in strictly ascending order of their bytes only. Member, if
// it isn't nil, scans the values.
func (s *scanner) object(depth int, member func(key []byte) bool) bool {
	s.pos++
	if s.accept('}') {
		return true
	}
	var last []byte
	for n := range MaxWidth {
		start := s.pos
		if !s.text(false) {
			return false
		}
		key := s.in[start+1 : s.pos-1]
		if n > 0 && string(last) >= string(key) {
			return false
		}
		last = key
		if !s.accept(':') {
			return false
		}
		if ok := member == nil && s.value(depth) || member != nil && member(key); !ok {
			return false
		}
		if !s.accept(',') {
			return s.accept('}')
		}
	}
	return false
}

// array has item, if it isn't nil, scan the items.
func (s *scanner) array(depth int, item func() bool) bool {
	s.pos++
	if s.accept(']') {
		return true
	}
	for range MaxWidth {
		if ok := item == nil && s.value(depth) || item != nil && item(); !ok {
			return false
		}
		if !s.accept(',') {
			return s.accept(']')
		}
	}
	return false
}

func (s *scanner) text(escapes bool) bool {
	if !s.accept('"') {
		return false
	}
	for i := s.pos; ; i++ {
		i += plainLength(s.in[i:])
		if i >= len(s.in) {
			return false
		}
		switch c := s.in[i]; {
		case c == '"':
			s.pos = i + 1
			return true
		case c == '\\':
			length := escapeLength(s.in[i:])
			if !escapes || length == 0 {
				return false
			}
			i += length - 1
		case c < ' ':
			return false
		}
	}
}

// plainLength returns how many bytes at the beginning stand in a string as they
// are, or a few fewer near the end. It looks at eight at a time.
func plainLength(in []byte) (n int) {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; len(in)-n >= 8; n += 8 {
		x := binary.LittleEndian.Uint64(in[n:])
		quote, slash := x^(ones*'"'), x^(ones*'\\')
		if ((x-ones*' ')&^x|(quote-ones)&^quote|(slash-ones)&^slash)&tops != 0 {
			break
		}
	}
	return n
}

// escapeLength returns the length of the escape that in begins with if it is
// the canonical form of a character, else 0. \/ isn't, and \u is for control
// characters without a short form only.
func escapeLength(in []byte) int {
	if len(in) < 2 {
		return 0
	}
	switch in[1] {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if len(in) >= 6 && isLongEscape(in[2:6]) {
			return 6
		}
	}
	return 0
}

func isLongEscape(digits []byte) bool {
	switch c := digits[3]; {
	case digits[0] != '0' || digits[1] != '0':
		return false
	case digits[2] == '0': // not \b, \t, \n, \f and \r
		return c >= '0' && c <= '7' || c == 'b' || c == 'e' || c == 'f'
	default:
		return digits[2] == '1' && (c >= '0' && c <= '9' || c >= 'a' && c <= 'f')
	}
}

func (s *scanner) word(w string) bool {
	if len(s.in)-s.pos < len(w) || string(s.in[s.pos:s.pos+len(w)]) != w {
		return false
	}
	s.pos += len(w)
	return true
}

// number accepts every JSON number without -0 in it, which gomatrixserverlib
// makes 0, at the beginning of an exponent too. It leaves others as they are.
func (s *scanner) number() bool {
	negative := s.accept('-')
	switch c := s.peek(); {
	case c == '0':
		s.pos++
		if negative {
			return false
		}
	case c >= '1' && c <= '9':
		s.digits()
	default:
		return false
	}
	if s.accept('.') && !s.digits() {
		return false
	}
	if s.accept('e') || s.accept('E') {
		if !s.accept('+') && s.accept('-') && s.peek() == '0' {
			return false
		}
		return s.digits()
	}
	return true
}

func (s *scanner) digits() bool {
	start := s.pos
	for c := s.peek(); c >= '0' && c <= '9'; c = s.peek() {
		s.pos++
	}
	return s.pos > start
}

// hasGoodShape reports whether the JSON in body keeps to MaxDepth and MaxWidth.
// It needs no valid JSON.
func hasGoodShape(body []byte) bool { return isShaped(body, MaxDepth) }

// answerDepth is how deep an answer may nest around its transactions.
const answerDepth = 3

func isShaped(body []byte, maxDepth int) bool {
	var width [MaxDepth + answerDepth + 1]int // of the objects and lists that are open, by depth
	depth, inText := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inText && c == '\\':
			i++
		case c == '"':
			inText = !inText
		case inText:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return false
			}
			width[depth] = 0
		case c == '}' || c == ']':
			depth = max(0, depth-1)
		case c == ',':
			if width[depth]++; width[depth] >= MaxWidth {
				return false
			}
		}
	}
	return true
}
