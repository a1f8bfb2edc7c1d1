package sqlite

import (
	"cmp"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// A total is the one row of that table. Its checksum is there since version 4: a
// clock that is damaged would let all mail expire.
type total struct {
	halves
	clock    int64
	checksum *int64 // nil until the first commit of version 4
}

const totalColumns = `entries, bytes, set_aside, private_entries, private_bytes, private_set_aside, clock, checksum`

func (t *total) scan() []any { return append(t.halves.scan(), &t.clock, &t.checksum) }

// sum covers the counts and the clock.
func (t *total) sum() int64 {
	b := binary.BigEndian.AppendUint64(nil, uint64(t.clock))
	for _, c := range t.halves {
		for _, n := range []int64{c.entries, c.bytes, c.setAside} {
			b = binary.BigEndian.AppendUint64(b, uint64(n))
		}
	}
	return int64(crc32.Checksum(b, castagnoli))
}

// values are the columns to write.
func (t *total) values() []any {
	return []any{
		t.halves[0].entries, t.halves[0].bytes, t.halves[0].setAside,
		t.halves[1].entries, t.halves[1].bytes, t.halves[1].setAside, t.clock, t.sum(),
	}
}

// read reads the row and checks it.
func (t *total) read(row *sql.Row) error {
	err := row.Scan(t.scan()...)
	if errors.Is(err, sql.ErrNoRows) || err == nil && t.checksum != nil && !t.isSealed() {
		return fmt.Errorf("%w: the table total", errDamaged)
	} else if err != nil {
		return fmt.Errorf("total: %w", err)
	}
	return nil
}

// check says that the counts can't be, if so.
func (t *total) check() error { return cmp.Or(t.halves[0].check(), t.halves[1].check()) }

func (t *total) isSealed() bool { return t.checksum != nil && *t.checksum == t.sum() }

// totalOf is scan for a record.
func totalOf(values record) (*total, bool) {
	t := &total{}
	for i, into := range t.scan() {
		n, ok := values[i].(int64)
		switch into := into.(type) {
		case *int64:
			*into = n
		case **int64:
			*into = &n
		}
		if !ok {
			return nil, false
		}
	}
	return t, true
}

// halves are the counts of the mailboxes of servers, and of the private ones.
type halves [2]counts

// of returns the counts of the half in which there is a mailbox of that name.
func (h *halves) of(name spec.ServerName) *counts {
	if store.IsPrivate(name) {
		return &h[1]
	}
	return &h[0]
}

// scan are the first columns of the table total, in their order.
func (h *halves) scan() []any {
	return []any{
		&h[0].entries, &h[0].bytes, &h[0].setAside,
		&h[1].entries, &h[1].bytes, &h[1].setAside,
	}
}
