package sqlite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// A salvage reads a database file page by page, without its indexes and without
// SQLite. It finds the rows by their form, wherever they are, and believes only
// rows that prove themselves.
type salvage struct {
	f     file
	pages uint32
	free  map[uint32]struct{} // nil: the list of free pages is damaged
	maps  mapCache

	names     map[int64][]spec.ServerName // of mailboxes: in their table and in its index
	leaves    []leaf                      // pages with entries
	broken    []uint32                    // pages of trees that aren't whole
	sequences map[string]int64
	clock     int64 // -1: not found
	lost      int   // rows that couldn't be read

	// Without patience, pages that the disk doesn't give are taken for empty ones.
	impatient bool
	unread    map[uint32]struct{} // such pages
}

// A file has the methods that a salvage needs.
type file interface {
	io.ReaderAt
	io.Closer
}

// A leaf is a page of the table entry.
type leaf struct {
	first int64 // the first ID on it
	page  uint32
}

// An opener is openSalvage or openImpatient.
type opener func(path string) (*salvage, error)

// A mapCache is the last page of the pointer map that was read.
type mapCache struct {
	number uint32
	page   page
}

// openSalvage opens a database for a repair that fails where the disk does: it may work
// again later.
func openSalvage(path string) (*salvage, error) { return newSalvage(path, false) }

// openImpatient opens one for a repair that does without pages that the disk doesn't give.
func openImpatient(path string) (*salvage, error) { return newSalvage(path, true) }

func newSalvage(path string, impatient bool) (*salvage, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s := &salvage{
		f: f, pages: uint32(info.Size() / pageSize), clock: -1, impatient: impatient,
		names: make(map[int64][]spec.ServerName), sequences: make(map[string]int64), unread: make(map[uint32]struct{}),
	}
	if err := s.readFreeList(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

// isCut reports whether there was a page after the end of the file, by the map of
// all pages. If that page would be one of the map, nobody knows, and it may have
// been there.
func (s *salvage) isCut() (bool, error) {
	next := s.pages + 1
	if s.pages < 2 || next == lockPage || s.isMap(next) {
		return true, nil
	}
	mapped, err := s.mapped(next)
	return mapped != 0, err
}

// isShort reports whether the first page says that there were more pages, and the map of
// all pages doesn't say otherwise: then nobody knows how much is lost.
func (s *salvage) isShort() (bool, error) {
	var p page
	if err := s.read(1, &p); err != nil || binary.BigEndian.Uint32(p[28:]) <= s.pages {
		return false, err
	}
	return s.isCut()
}

func (s *salvage) close() error { return s.f.Close() }

func (s *salvage) read(n uint32, p *page) error {
	_, err := s.f.ReadAt(p[:], int64(n-1)*pageSize)
	if err != nil && s.impatient {
		s.unread[n] = struct{}{}
		clear(p[:])
		return nil
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", n, err)
	}
	return nil
}

// readFreeList reads which pages are in no use. Old rows may still be on them.
func (s *salvage) readFreeList() error {
	var p page
	if s.pages == 0 {
		return nil
	}
	if err := s.read(1, &p); err != nil {
		return err
	}
	number := func(at int) uint32 { return binary.BigEndian.Uint32(p[at:]) }
	free, next, count := make(map[uint32]struct{}), number(32), number(36)
	for next != 0 {
		if _, known := free[next]; known || next < 2 || next > s.pages || uint32(len(free)) >= count {
			return nil
		}
		free[next] = struct{}{}
		if err := s.read(next, &p); err != nil {
			return err
		}
		leaves := number(4)
		if leaves > pageSize/4-2 {
			return nil
		}
		for i := range int(leaves) {
			free[number(8+4*i)] = struct{}{}
		}
		next = number(0)
	}
	if uint32(len(free)) != count {
		return nil
	}
	for _, n := range slices.Sorted(maps.Keys(free)) {
		if n < 2 || n > s.pages {
			return nil
		}
		if mapped, err := s.mapped(n); err != nil || mapped == mapRoot || mapped == mapTree {
			return err // it may be in use
		}
	}
	s.free = free
	return nil
}

// Kinds of pages in the pointer map.
const (
	mapRoot = 1
	mapFree = 2
	mapTree = 5
)

// mapOf returns the page of the map that tells of a page.
func mapOf(n uint32) uint32 {
	const each = pageSize / 5
	at := (n-2)/(each+1)*(each+1) + 2
	if at == lockPage {
		at++
	}
	return at
}

// isMap reports whether a page is one of the map itself.
func (s *salvage) isMap(n uint32) bool {
	at := mapOf(n)
	return n <= at || int(n-at-1)*5 >= pageSize
}

// mapped returns the kind that the pointer map has for a page.
func (s *salvage) mapped(n uint32) (byte, error) {
	at := mapOf(n)
	if s.isMap(n) {
		return 0, nil
	}
	if s.maps.number != at {
		if err := s.read(at, &s.maps.page); err != nil {
			return 0, err
		}
		s.maps.number = at
	}
	return s.maps.page[(n-at-1)*5], nil
}

// lockPage is where SQLite locks bytes, and keeps nothing.
const lockPage = 1<<30/pageSize + 1

func (s *salvage) isFree(n uint32, mapped byte) bool {
	if s.free == nil {
		return mapped == mapFree
	}
	_, free := s.free[n]
	return free
}

// scan looks at all pages, and hands notes over as it comes across them.
func (s *salvage) scan(note func(store.Note) error) error {
	var p page
	for n := uint32(2); n <= s.pages; n++ {
		mapped, err := s.mapped(n)
		if err != nil {
			return err
		}
		if n == lockPage || s.isFree(n, mapped) {
			continue
		}
		if err := s.read(n, &p); err != nil {
			return err
		}
		cells, whole := p.cells(0)
		if !whole && (mapped == mapTree || mapped == mapRoot) {
			s.broken = append(s.broken, n)
		}
		for _, c := range cells {
			if err := s.sort(n, p[0], c, note); err != nil {
				return err
			}
		}
	}
	return nil
}

// sort finds out which table or index a cell is of.
func (s *salvage) sort(n uint32, kind byte, c cell, note func(store.Note) error) error {
	kinds, _ := kinds(c.local, c.size)
	if kinds == nil {
		s.lost++
		return nil
	}
	if kind == tableLeaf && isEntry(kinds) {
		if last := len(s.leaves) - 1; last < 0 || s.leaves[last].page != n {
			s.leaves = append(s.leaves, leaf{c.rowID, n})
		}
		return nil
	}
	if len(kinds) < 2 || len(kinds) > 8 {
		return nil
	}
	r, err := s.record(c)
	if err != nil {
		return err
	}
	if r == nil {
		s.lost++
		return nil
	}
	if kind == tableLeaf {
		s.sortRow(c.rowID, r)
		return nil
	}
	name, isText := r[0].(string)
	switch value := r[1].(type) {
	case int64:
		if isText && len(r) == 2 {
			s.addName(value, name)
		}
	case []byte:
		if isText && len(r) == 2 && len(value) > 0 {
			return note(store.Note{Key: name, Value: value})
		}
	}
	return nil
}

// sortRow takes rows of the small tables.
func (s *salvage) sortRow(id int64, r record) {
	name, isText := r[1].(string)
	switch {
	case len(r) == 2:
		if name, ok := r[0].(string); ok {
			if n, ok := r[1].(int64); ok && n > 0 && n <= store.MaxID {
				s.sequences[name] = n
			}
		}
	case isText && (len(r) == 5 || len(r) == 6):
		s.addName(id, name)
	case len(r) == 8:
		if total, ok := totalOf(r); ok && total.isSealed() {
			s.clock = total.clock
		}
	}
}

func (s *salvage) addName(mailbox int64, name string) {
	s.names[mailbox] = append(s.names[mailbox], spec.ServerName(name))
}

// isEntry reports whether values of these kinds can be a row of the table entry.
func isEntry(kinds []int64) bool {
	const id, key, digest = 0, 2, 8
	return (len(kinds) == 12 || len(kinds) == 13) && kinds[id] == 0 && lengthOf(kinds[key]) == 16 && lengthOf(kinds[digest]) == 32
}

// record reads a cell with the pages on which it goes on; nil if it can't be
// read.
func (s *salvage) record(c cell) (record, error) {
	if c.size > int64(s.pages)*pageSize {
		return nil, nil
	}
	payload := append([]byte(nil), c.local...)
	var p page
	for next := c.beyond; int64(len(payload)) < c.size; next = binary.BigEndian.Uint32(p[:]) {
		if next < 2 || next > s.pages {
			return nil, nil
		}
		if err := s.read(next, &p); err != nil {
			return nil, err
		}
		payload = append(payload, p[4:min(pageSize, 4+c.size-int64(len(payload)))]...)
	}
	return decode(payload), nil
}

// entry returns the row of a cell if it is an entry that proves itself: its
// mail has the name of its mailbox then, if it isn't gone.
func (s *salvage) entry(c cell) (*entryRow, error) {
	if kinds, _ := kinds(c.local, c.size); !isEntry(kinds) || c.rowID < 1 || c.rowID > store.MaxID {
		return nil, nil
	}
	values, err := s.record(c)
	if err != nil {
		return nil, err
	}
	if values == nil {
		return nil, nil
	}
	r := &entryRow{}
	r.set(rowOf(c.rowID, values))
	if r.isGoneRow() {
		return r, nil
	}
	r.state = live
	for _, name := range s.names[r.mailbox] {
		if r.mail.Destination = name; r.isProven() {
			return r, nil
		}
	}
	return nil, nil
}

// isRelays reports whether something of a relay can be found in a file that
// doesn't say that it is a relay's database. It only reads.
func isRelays(path string, open opener) (found bool, err error) {
	s, err := open(path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	err = s.scan(func(store.Note) error { return nil })
	return s.clock >= 0 || len(s.leaves) > 0, err
}
