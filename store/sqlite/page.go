package sqlite

import (
	"database/sql/driver"
	"encoding/binary"
)

// The first bytes of pages of a b-tree.
const (
	indexInterior = 2
	tableInterior = 5
	indexLeaf     = 10
	tableLeaf     = 13
)

// A page is one of a database file, as the file format of SQLite has it. Nothing
// in it is believed.
type page [pageSize]byte

func (p *page) number(at int) int { return int(binary.BigEndian.Uint16(p[at:])) }

// A cell is a row of a table, or an entry of an index.
type cell struct {
	rowID  int64 // in tables
	size   int64 // of the payload
	local  []byte
	beyond uint32 // the page where the payload goes on; 0: it doesn't
}

// cell decodes the cell at an offset of a page of that kind, and says how long it
// is on the page.
func (p *page) cell(kind byte, at int) (c cell, length int, ok bool) {
	b := p[at:]
	if kind == indexInterior || kind == tableInterior {
		b = b[min(4, len(b)):] // its child
	}
	if kind == tableInterior {
		_, n := varint(b)
		return c, 4 + n, n > 0
	}
	size, n := varint(b)
	if n == 0 || size < 0 || size > maxPayload {
		return c, 0, false
	}
	b, c.size = b[n:], size
	if kind == tableLeaf {
		if c.rowID, n = varint(b); n == 0 {
			return c, 0, false
		}
		b = b[n:]
	}
	local := localSize(kind, size)
	if local > int64(len(b)) {
		return c, 0, false
	}
	c.local, b = b[:local], b[local:]
	if local < size {
		if len(b) < 4 {
			return c, 0, false
		}
		c.beyond, b = binary.BigEndian.Uint32(b), b[4:]
	}
	return c, max(pageSize-at-len(b), 4), true
}

// isRecord reports whether the payload begins as records do.
func (c *cell) isRecord() bool {
	kinds, _ := kinds(c.local, c.size)
	return kinds != nil
}

// maxPayload is the most that SQLite keeps in a row.
const maxPayload = 1_000_000_000

// localSize is how much of a payload is in its cell.
func localSize(kind byte, size int64) int64 {
	most := int64(pageSize - 35)
	if kind != tableLeaf {
		most = (pageSize-12)*64/255 - 23
	}
	if size <= most {
		return size
	}
	const least = (pageSize-12)*32/255 - 23
	if local := least + (size-least)%(pageSize-4); local <= most {
		return local
	}
	return least
}

// cells returns the cells of a page, the header being at an offset, and
// whether the page is whole: every byte of it is accounted for once.
func (p *page) cells(header int) (cells []cell, whole bool) {
	kind, count, pointers := p[header], p.number(header+3), p.pointers(header)
	switch kind {
	case tableLeaf, tableInterior, indexLeaf, indexInterior:
	default:
		return nil, false
	}
	if pointers+2*count > pageSize {
		return nil, false
	}
	whole = true
	used := pointers + 2*count + int(p[header+7])
	var taken [pageSize]bool
	for i := range count {
		at := p.number(pointers + 2*i)
		if at < pointers+2*count || at >= pageSize {
			whole = false
			continue
		}
		c, length, ok := p.cell(kind, at)
		if ok && kind != tableInterior {
			cells = append(cells, c)
		}
		whole, used = whole && ok && take(taken[at:], length), used+length
	}
	free, ok := p.freeBytes(header, taken[:])
	return cells, whole && ok && used+free == pageSize
}

// take marks bytes, and reports whether none of them was.
func take(taken []bool, length int) bool {
	if length > len(taken) {
		return false
	}
	for i := range length {
		if taken[i] {
			return false
		}
		taken[i] = true
	}
	return true
}

// pointers is where those to the cells begin.
func (p *page) pointers(header int) int {
	if p[header] == indexInterior || p[header] == tableInterior {
		return header + 12
	}
	return header + 8
}

// freeBytes counts those between the pointers and the cells, and between cells.
func (p *page) freeBytes(header int, taken []bool) (free int, ok bool) {
	content := p.number(header + 5) // a page of 65,536 bytes would have 0
	if free = content - p.pointers(header) - 2*p.number(header+3); free < 0 {
		return 0, false
	}
	for at, last := p.number(header+1), 0; at != 0; last, at = at, p.number(at) {
		if at <= last || at < content || at > pageSize-4 {
			return 0, false
		}
		if !take(taken[at:], p.number(at+2)) {
			return 0, false
		}
		free += p.number(at + 2)
	}
	return free, true
}

// anywhere returns all that look like rows of a table, at any offset.
func (p *page) anywhere() (cells []cell) {
	for at := range pageSize - 4 {
		if c, _, ok := p.cell(tableLeaf, at); ok {
			cells = append(cells, c)
		}
	}
	return cells
}

// varint is a number as SQLite writes it, and how many bytes it takes: 0 if it
// isn't all there.
func varint(b []byte) (value int64, n int) {
	for n < min(len(b), 9) {
		c := b[n]
		n++
		if n == 9 {
			return value<<8 | int64(c), n
		}
		value = value<<7 | int64(c&0x7f)
		if c < 0x80 {
			return value, n
		}
	}
	return 0, 0
}

// A record is the values of a row: nil, int64, []byte, or string.
type record []driver.Value

// kinds are those of the values of a record, whose payload is size bytes and
// begins with local, and how many bytes there are before the values. They are
// nil if it can't be a record.
func kinds(local []byte, size int64) (kinds []int64, head int64) {
	head, n := varint(local)
	if n == 0 || head < int64(n) || head > int64(len(local)) {
		return nil, 0
	}
	size -= head
	for types := local[n:head]; len(types) > 0; types = types[n:] {
		var kind int64
		if kind, n = varint(types); n == 0 {
			return nil, 0
		}
		length := lengthOf(kind)
		if size -= length; length < 0 || size < 0 {
			return nil, 0
		}
		kinds = append(kinds, kind)
	}
	if size != 0 {
		return nil, 0
	}
	return kinds, head
}

// lengthOf a value of that kind, negative for those that no table of ours has.
func lengthOf(kind int64) int64 {
	switch {
	case kind >= 12:
		return (kind - 12) / 2
	case kind == 0 || kind == 8 || kind == 9:
		return 0
	case kind >= 1 && kind <= 6:
		return []int64{1, 2, 3, 4, 6, 8}[kind-1]
	}
	return -1
}

// decode reads a record that has all its bytes and no others, or returns nil.
func decode(payload []byte) (r record) {
	kinds, head := kinds(payload, int64(len(payload)))
	for _, kind := range kinds {
		length := lengthOf(kind)
		r = append(r, valueOf(kind, payload[head:head+length]))
		head += length
	}
	return r
}

func valueOf(kind int64, b []byte) driver.Value {
	switch {
	case kind == 0:
		return nil
	case kind == 8 || kind == 9:
		return kind - 8
	case kind >= 12 && kind%2 == 0:
		return b
	case kind >= 12:
		return string(b)
	}
	n := int64(int8(b[0]))
	for _, c := range b[1:] {
		n = n<<8 | int64(c)
	}
	return n
}
