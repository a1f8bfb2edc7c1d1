package wire

import "unicode/utf8"

// isCanonical reports whether body is a JSON object that is certain to be
// Matrix canonical JSON already, so that gomatrixserverlib.CanonicalJSON would
// return it unchanged. Senders that use gomatrixserverlib send that form, since
// signing produces it, and then nothing needs to be encoded again to check the
// signature.
//
// It says no whenever it isn't sure: besides what isn't canonical, to escapes
// in keys and to what goes over MaxDepth or MaxWidth. A no costs time only; a
// wrong yes would accept what fclient refuses, so the fuzz tests hold it against
// gomatrixserverlib.
func isCanonical(body []byte) bool {
	if len(body) == 0 || body[0] != '{' || !utf8.Valid(body) {
		return false
	}
	s := scanner{in: body}
	return s.value(0) && s.pos == len(body)
}

// A scanner reads canonical JSON. Its methods return false at the first byte
// that doesn't fit.
type scanner struct {
	in  []byte
	pos int
}

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
		return depth < MaxDepth && s.object(depth+1)
	case '[':
		return depth < MaxDepth && s.array(depth+1)
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

// object accepts keys in strictly ascending order of their bytes only.
func (s *scanner) object(depth int) bool {
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
		if !s.accept(':') || !s.value(depth) {
			return false
		}
		if !s.accept(',') {
			return s.accept('}')
		}
	}
	return false
}

func (s *scanner) array(depth int) bool {
	s.pos++
	if s.accept(']') {
		return true
	}
	for range MaxWidth {
		if !s.value(depth) {
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
	for i := s.pos; i < len(s.in); i++ {
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
	return false
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
	var width [MaxDepth + answerDepth + 1]int // of what is open, by depth
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
