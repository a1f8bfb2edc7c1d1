package sqlite

import (
	"bytes"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
)

// entryColumns are those of the table.
const entryColumns = `id, mailbox, copy_key, state, until, size, origin, txn, digest, checksum, proof, body, prev`

// rowColumns are those of an entryRow, in the order of set. Those that are short and
// aren't numbers are one, since each costs the driver two allocations, and none is text,
// for which it would look up each time how the column was declared.
const (
	rowColumns = `id, until, size, checksum, prev, octet_length(origin),
		CAST(origin || copy_key || digest || txn AS BLOB), proof, body`

	moreColumns = rowColumns + `, state, mailbox`
	allColumns  = moreColumns + `, (SELECT CAST(destination AS BLOB) FROM mailbox WHERE mailbox.id = entry.mailbox)`
)

// An entryRow is a row of the table entry. Nothing is changed or handed out that
// isn't proven: SQLite would follow a damaged row into pages of others.
type entryRow struct {
	id, mailbox, state, until, size, checksum int64

	key, digest []byte // nil if they are too short
	prev        *int64 // the entry before it in its mailbox; nil in rows of before version 4
	mail        store.Mail

	isTyped bool // each column has a value of its type
}

// set takes values of rowColumns, moreColumns or allColumns.
func (r *entryRow) set(values []driver.Value) {
	v := typedValues{values: values}
	*r = entryRow{id: v.number(0), until: v.number(1), size: v.number(2), checksum: v.number(3)}
	if values[4] != nil {
		prev := v.number(4)
		r.prev = &prev
	}
	head, originSize := v.bytes(6), v.number(5)
	if head == nil || originSize < 0 || originSize > int64(len(head)) {
		v.isWrong = true
	} else {
		r.setHead(head, int(originSize))
	}
	r.mail.Proof, r.mail.Body = v.bytes(7), v.bytes(8)
	if len(values) > 9 {
		r.state, r.mailbox = v.number(9), v.number(10)
	}
	if len(values) > 11 {
		r.mail.Destination = spec.ServerName(v.bytes(11))
	}
	r.isTyped = !v.isWrong
}

// setHead takes the origin, the key, the digest and the transaction ID apart. If one of
// them isn't as long as it must be, the row isn't proven; the origin is right even then.
func (r *entryRow) setHead(head []byte, originSize int) {
	r.mail.Origin, head = spec.ServerName(head[:originSize]), head[originSize:]
	const keySize, digestSize = len(seal.Key{}), len(store.Digest{})
	if len(head) >= keySize+digestSize {
		r.key, r.digest = head[:keySize], head[keySize:keySize+digestSize]
		head = head[keySize+digestSize:]
	}
	r.mail.TransactionID = gomatrixserverlib.TransactionID(head)
}

// rowOf puts the values of a record of the table entry in the order of moreColumns.
func rowOf(id int64, r record) []driver.Value {
	var prev driver.Value
	if len(r) > 12 { // not before version 4
		prev = r[12]
	}
	v := typedValues{values: r}
	origin := v.bytes(6)
	var head driver.Value
	if parts := slices.Concat(origin, v.bytes(2), v.bytes(8), v.bytes(7)); !v.isWrong {
		head = parts
	}
	return []driver.Value{id, r[4], r[5], r[9], prev, int64(len(origin)), head, r[10], r[11], r[3], r[1]}
}

// typedValues are those of a row, which may be damaged.
type typedValues struct {
	values  []driver.Value
	isWrong bool // one wasn't of its type
}

func (v *typedValues) number(i int) int64 {
	n, ok := v.values[i].(int64)
	v.isWrong = v.isWrong || !ok
	return n
}

// bytes are those of a blob or of text, or nil.
func (v *typedValues) bytes(i int) []byte {
	switch value := v.values[i].(type) {
	case nil:
		return nil
	case []byte:
		return value
	case string:
		return []byte(value)
	}
	v.isWrong = true
	return nil
}

var errChecksum = errors.New("the row isn't as it was written")

// isProven reports whether a row that is live is as it was written. Its mail must
// have the name of its mailbox.
func (r *entryRow) isProven() bool {
	copy(r.mail.Digest[:], r.digest)
	key := seal.KeyOf(&r.mail)
	return r.isTyped && len(r.digest) == len(r.mail.Digest) && bytes.Equal(r.key, key[:]) && r.size == r.mail.Size() && r.isSealed()
}

// isGoneRow reports whether a row that is gone is as it was written. The name of its
// mailbox may be gone, too, so that its key is taken as it is.
func (r *entryRow) isGoneRow() bool {
	return r.isTyped && r.state == gone && r.mail.Size() == 0 && len(r.key) == len(seal.Key{}) &&
		(r.checksum&sealsID == 0 || r.isSealed())
}

func (r *entryRow) isSealed() bool {
	if r.checksum&sealsID != 0 && r.prev == nil {
		return false
	}
	return r.checksum == r.sealAs(r.until, r.mail.Body, r.mail.Proof)
}

// sealAs is the checksum of the row with other content.
func (r *entryRow) sealAs(until int64, body, proof []byte) int64 {
	if r.prev == nil { // of before version 4
		return seal.Checksum(until, body, proof)
	}
	return checksum(r.id, *r.prev, until, body, proof)
}

// isShort reports whether the row is on one page for sure.
func (r *entryRow) isShort() bool {
	return r.isTyped &&
		len(r.mail.Body)+len(r.mail.Proof)+len(r.mail.Origin)+len(r.mail.TransactionID) < pageSize/2
}

// sealsID marks a checksum that covers the ID, too.
const sealsID = 1 << 32

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum covers the parts of a row that the key doesn't, but its state and those that
// follow from the rest. It defends against bad disks, not against changes by other
// programs.
func checksum(id, prev, until int64, body, proof []byte) int64 {
	head := make([]byte, 0, 32)
	for _, n := range []int64{id, prev, until, int64(len(body))} {
		head = binary.BigEndian.AppendUint64(head, uint64(n))
	}
	sum := crc32.Checksum(head, castagnoli)
	return sealsID | int64(crc32.Update(crc32.Update(sum, castagnoli, body), castagnoli, proof))
}
