// Package seal says how a store in rows knows mail again: whether it is a copy,
// and whether it is what was written.
package seal

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"

	"github.com/matrixrelay/relay/store"
)

// A Key is the same for mail that is the same, and for no other.
type Key [16]byte

// KeyOf returns the key of mail.
func KeyOf(mail *store.Mail) Key {
	h := sha256.New()
	for _, part := range []string{string(mail.Destination), string(mail.Origin), string(mail.TransactionID)} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write([]byte(part))
	}
	h.Write(mail.Digest[:])
	return Key(h.Sum(nil)[:16])
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum tells, with the Key, whether a row is what it was when it was
// written. It defends against bad disks, not against anybody who writes to the
// database.
func Checksum(until int64, body, proof []byte) int64 {
	sum := crc32.Checksum(binary.BigEndian.AppendUint64(nil, uint64(until)), castagnoli)
	return int64(crc32.Update(crc32.Update(sum, castagnoli, body), castagnoli, proof))
}
