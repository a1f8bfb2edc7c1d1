package jetstream

import (
	"encoding/binary"
	"errors"
)

// Records and mail are kept in a form of their own, which begins with its
// version: strings and bytes have their length before them, numbers are varints.

const version = 1

var errCodec = errors.New("not in a known form")

type encoder struct{ b []byte }

func newEncoder(size int) *encoder {
	return &encoder{append(make([]byte, 0, size), version)}
}

func (e *encoder) number(numbers ...int64) {
	for _, n := range numbers {
		e.b = binary.AppendUvarint(e.b, uint64(n))
	}
}

func (e *encoder) raw(b []byte)     { e.b = append(e.b, b...) }
func (e *encoder) string(s string)  { e.number(int64(len(s))); e.b = append(e.b, s...) }
func (e *encoder) uint32(n uint32)  { e.b = binary.BigEndian.AppendUint32(e.b, n) }
func (e *encoder) counts(c *counts) { e.number(c.entries, c.bytes, c.aside) }

// A decoder reads what an encoder wrote. Its first error stays, and then it
// gives zeros.
type decoder struct {
	b   []byte
	err error
}

func newDecoder(b []byte) *decoder {
	d := &decoder{b: b}
	if v := d.raw(1); d.err == nil && v[0] != version {
		d.err = errCodec
	}
	return d
}

func (d *decoder) raw(n int) []byte {
	if d.err != nil || n < 0 || n > len(d.b) {
		d.err = errCodec
		return nil
	}
	taken := d.b[:n:n]
	d.b = d.b[n:]
	return taken
}

func (d *decoder) number() int64 {
	n, size := binary.Uvarint(d.b)
	if d.err != nil || size <= 0 || int64(n) < 0 {
		d.err = errCodec
		return 0
	}
	d.b = d.b[size:]
	return int64(n)
}

func (d *decoder) string() string { return string(d.raw(int(d.number()))) }

func (d *decoder) uint32() uint32 {
	if b := d.raw(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) counts() counts {
	return counts{entries: d.number(), bytes: d.number(), aside: d.number()}
}

// end returns the error, or one if something is left.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.err = errCodec
	}
	return d.err
}
