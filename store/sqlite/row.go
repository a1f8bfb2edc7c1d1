package sqlite

import (
	"bytes"
	"database/sql"
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
)

// entryColumns are those of an entryRow, in the order of scan.
const entryColumns = `id, mailbox, copy_key, state, until, size, origin, txn, digest, checksum, proof, body, prev`

// An entryRow is a row of the table entry. Nothing is changed or handed out that
// isn't proven: SQLite would follow a damaged row into pages of others.
type entryRow struct {
	id, mailbox, state, until, size, checksum int64

	key, digest []byte
	prev        *int64 // the entry before it in its mailbox; nil in rows of before version 4
	mail        store.Mail
}

func (r *entryRow) scan() []any {
	return []any{
		&r.id, &r.mailbox, &r.key, &r.state, &r.until, &r.size, &r.mail.Origin, &r.mail.TransactionID, &r.digest,
		&r.checksum, &r.mail.Proof, &r.mail.Body, &r.prev,
	}
}

// scanRow reads a row of rowSQL. The mail has the name of its mailbox, if
// that is there.
func scanRow(row *sql.Row) (*entryRow, error) {
	r := &entryRow{}
	var name sql.NullString
	if err := row.Scan(append(r.scan(), &name)...); err != nil {
		return nil, err
	}
	r.mail.Destination = spec.ServerName(name.String)
	return r, nil
}

var errChecksum = errors.New("the row isn't what was written")

// isProven reports whether a row that is live is as it was written. Its mail must
// have the name of its mailbox.
func (r *entryRow) isProven() bool {
	copy(r.mail.Digest[:], r.digest)
	key := seal.KeyOf(&r.mail)
	return len(r.digest) == len(r.mail.Digest) && bytes.Equal(r.key, key[:]) && r.size == r.mail.Size() && r.isSealed()
}

// isGoneRow reports whether a row that is gone is as it was written. The name of its
// mailbox may be gone, too, so that its key is taken as it is.
func (r *entryRow) isGoneRow() bool {
	return r.state == gone && r.mail.Size() == 0 && len(r.key) == len(seal.Key{}) &&
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
	return len(r.mail.Body)+len(r.mail.Proof)+len(r.mail.Origin)+len(r.mail.TransactionID) < pageSize/2
}

// sealsID marks a checksum that covers the ID, too.
const sealsID = 1 << 32

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum covers the parts of a row that the key doesn't, but its state and those that
// follow from the rest. It defends against bad disks, not against anybody who writes to
// the database.
func checksum(id, prev, until int64, body, proof []byte) int64 {
	head := make([]byte, 0, 32)
	for _, n := range []int64{id, prev, until, int64(len(body))} {
		head = binary.BigEndian.AppendUint64(head, uint64(n))
	}
	sum := crc32.Checksum(head, castagnoli)
	return sealsID | int64(crc32.Update(crc32.Update(sum, castagnoli, body), castagnoli, proof))
}
