package jetstream

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

const (
	// maxParts bounds the messages of one mail, so that what removes it fits
	// into a batch: see remover.
	maxParts = 512
)

var errDamaged = errors.New("it isn't what was written")

func hashOrigin(origin spec.ServerName) (hash originHash) {
	sum := sha256.Sum256([]byte(origin))
	copy(hash[:], sum[:])
	return hash
}

// A nonce tells a Put from all others, so that one whose outcome is unknown can
// find out whether it was it that stored its mail.
type nonce [8]byte

// messagesOf returns what is published for mail that becomes the entry at that
// place: the first message, whose subject recognises copies, and the parts that
// didn't fit into it.
func messagesOf(mail *store.Mail, place, expires int64, by nonce, maxMessage int) ([][]byte, error) {
	content := make([]byte, 0, mail.Size())
	content = append(append(content, mail.Proof...), mail.Body...)
	head := newEncoder(256)
	head.uint32(0) // the checksum comes last
	head.raw(by[:])
	head.number(place)
	head.raw(mail.Digest[:])
	head.string(string(mail.Destination))
	head.string(string(mail.Origin))
	head.string(string(mail.TransactionID))
	head.number(expires, int64(len(mail.Proof)), int64(len(mail.Body)))
	if room := maxMessage - len(head.b); room < maxMessage/2 {
		return nil, fmt.Errorf("jetstream: the transaction ID has %d bytes", len(mail.TransactionID))
	}
	sum := crc32.Checksum(head.b[5:], castagnoli)
	binary.BigEndian.PutUint32(head.b[1:], crc32.Update(sum, castagnoli, content))

	first := min(maxMessage-len(head.b), len(content))
	messages := [][]byte{append(head.b, content[:first]...)}
	for rest := content[first:]; len(rest) > 0; {
		n := min(maxMessage, len(rest))
		messages, rest = append(messages, rest[:n]), rest[n:]
	}
	if len(messages) > maxParts {
		return nil, fmt.Errorf("jetstream: mail of %d bytes is too large for messages of %d bytes", mail.Size(), maxMessage)
	}
	return messages, nil
}

// mailOf puts together what messagesOf took apart.
func mailOf(messages [][]byte) (*store.Mail, error) {
	if len(messages) == 0 {
		return nil, errDamaged
	}
	d := newDecoder(messages[0])
	want, head := d.uint32(), d.b
	d.raw(len(nonce{}))
	d.number() // its place
	mail := &store.Mail{}
	copy(mail.Digest[:], d.raw(len(mail.Digest)))
	mail.Destination, mail.Origin = spec.ServerName(d.string()), spec.ServerName(d.string())
	mail.TransactionID = gomatrixserverlib.TransactionID(d.string())
	d.number() // when it expires, which its mailbox knows, too
	proof, body := d.number(), d.number()
	content := d.b[:len(d.b):len(d.b)]
	sum := crc32.Checksum(head, castagnoli)
	for _, part := range messages[1:] {
		content = append(content, part...)
		sum = crc32.Update(sum, castagnoli, part)
	}
	if d.err != nil || sum != want || proof+body != int64(len(content)) {
		return nil, errDamaged
	}
	mail.Proof, mail.Body = content[:proof:proof], content[proof:len(content):len(content)]
	return mail, nil
}

// putBy returns by which Put the first message of mail was stored, and at which
// place.
func putBy(message []byte) (by nonce, place int64, err error) {
	d := newDecoder(message)
	d.uint32()
	copy(by[:], d.raw(len(by)))
	return by, d.number(), d.err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)
