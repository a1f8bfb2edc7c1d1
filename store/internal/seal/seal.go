// Package seal says how a store in rows knows mail again: whether it is a copy,
// and whether it still is as it was written.
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
	b := make([]byte, 0, 512) // on the stack; names are rarely longer
	for _, part := range [...]string{string(mail.Destination), string(mail.Origin), string(mail.TransactionID)} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	sum := sha256.Sum256(append(b, mail.Digest[:]...))
	return Key(sum[:16])
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum tells, with the Key, whether a row still is as it was
// written. It defends against bad disks, not against anybody who writes to the
// database.
func Checksum(until int64, body, proof []byte) int64 {
	sum := crc32.Checksum(binary.BigEndian.AppendUint64(nil, uint64(until)), castagnoli)
	return int64(crc32.Update(crc32.Update(sum, castagnoli, body), castagnoli, proof))
}
