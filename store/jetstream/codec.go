package jetstream

import (
	"encoding/binary"
	"errors"
)

// Records and mail are kept in a form of their own, which begins with its
// version: strings have their length before them, numbers are varints.

const version = 1

var errCodec = errors.New("not in a known form")

// A coder writes or reads a form, so that each form is said once. The first error
// of reading stays, and then it gives zeros.
type coder struct {
	b       []byte
	reading bool
	err     error
}

func (c *coder) fail() { c.err = errCodec }

// take returns the next bytes of the form that is read.
func (c *coder) take(n int) []byte {
	if c.err != nil || n < 0 || n > len(c.b) {
		c.fail()
		return nil
	}
	taken := c.b[:n:n]
	c.b = c.b[n:]
	return taken
}

func (c *coder) raw(b []byte) {
	if c.reading {
		copy(b, c.take(len(b)))
	} else {
		c.b = append(c.b, b...)
	}
}

func (c *coder) numbers(numbers ...*int64) {
	for _, n := range numbers {
		if !c.reading {
			c.b = binary.AppendUvarint(c.b, uint64(*n))
			continue
		}
		number, size := binary.Uvarint(c.b)
		if c.err != nil || size <= 0 || int64(number) < 0 {
			c.fail()
			number, size = 0, 0
		}
		*n, c.b = int64(number), c.b[size:]
	}
}

// length is that of a list, which has at most so many.
func (c *coder) length(n, most int) int {
	long := int64(n)
	if c.numbers(&long); long > int64(most) {
		c.fail()
		return 0
	}
	return int(long)
}

func text[S ~string](c *coder, s *S) {
	n := int64(len(*s))
	if c.numbers(&n); c.reading {
		*s = S(c.take(int(n)))
	} else {
		c.b = append(c.b, *s...)
	}
}

// A form is anything that a coder writes and reads.
type form interface{ code(c *coder) }

func encode(f form) []byte {
	c := &coder{b: append(make([]byte, 0, 64), version)}
	f.code(c)
	return c.b
}

// decodeSome reads a form, and returns the bytes that come after it.
func decodeSome(data []byte, f form) (rest []byte, err error) {
	c := &coder{b: data, reading: true}
	if v := c.take(1); c.err != nil || v[0] != version {
		return nil, errCodec
	}
	f.code(c)
	return c.b, c.err
}

// decode reads a form that is all there is.
func decode(data []byte, f form) error {
	rest, err := decodeSome(data, f)
	if err == nil && len(rest) > 0 {
		err = errCodec
	}
	return err
}
