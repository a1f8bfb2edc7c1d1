package jetstream

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// maxParts bounds the messages of one mail, so that the messages that remove it fit
// into a batch: see batch.remove.
const maxParts = 512

var (
	errDamaged = errors.New("it isn't as it was written")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

func hashOrigin(origin spec.ServerName) (hash originHash) {
	sum := sha256.Sum256([]byte(origin))
	copy(hash[:], sum[:])
	return hash
}

// A nonce tells a Put from all others, so that a Put whose outcome is unknown can find
// out whether it has stored its mail itself.
type nonce [8]byte

// A head is the beginning of mail: its content follows.
type head struct {
	sum                  [4]byte // of all that comes after it
	by                   nonce
	mail                 store.Mail // but for Body and Proof
	place, expires       int64
	proofBytes, bodySize int64
}

// sealed is where the bytes begin that the sum in the head covers.
const sealed = 1 + len(head{}.sum)

func (h *head) code(c *coder) {
	c.raw(h.sum[:])
	c.raw(h.by[:])
	c.numbers(&h.place)
	c.raw(h.mail.Digest[:])
	text(c, &h.mail.Destination)
	text(c, &h.mail.Origin)
	text(c, &h.mail.TransactionID)
	c.numbers(&h.expires, &h.proofBytes, &h.bodySize)
}

// messagesOf returns the messages of mail that becomes the entry at that place: the
// first one, whose subject recognises copies, and the parts that didn't fit into it.
func messagesOf(mail *store.Mail, place, expires int64, by nonce, maxMessage int) ([][]byte, error) {
	all := encode(&head{
		by: by, mail: *mail, place: place, expires: expires,
		proofBytes: int64(len(mail.Proof)), bodySize: int64(len(mail.Body)),
	})
	if len(all) > maxMessage/2 {
		return nil, fmt.Errorf("jetstream: the transaction ID has %d bytes", len(mail.TransactionID))
	}
	all = slices.Concat(all, mail.Proof, mail.Body)
	binary.BigEndian.PutUint32(all[1:], crc32.Checksum(all[sealed:], castagnoli))
	messages := slices.Collect(slices.Chunk(all, maxMessage))
	if len(messages) > maxParts {
		return nil, fmt.Errorf("jetstream: mail of %d bytes is too large for messages of %d bytes", mail.Size(), maxMessage)
	}
	return messages, nil
}

// mailOf puts together the mail that messagesOf took apart.
func mailOf(messages [][]byte) (*store.Mail, error) {
	h, all := head{}, messages[0]
	if len(messages) > 1 {
		all = slices.Concat(messages...)
	}
	content, err := decodeSome(all, &h)
	if err != nil || crc32.Checksum(all[sealed:], castagnoli) != binary.BigEndian.Uint32(h.sum[:]) ||
		h.proofBytes > int64(len(content)) || h.bodySize != int64(len(content))-h.proofBytes {
		return nil, errDamaged
	}
	h.mail.Proof, h.mail.Body = content[:h.proofBytes:h.proofBytes], content[h.proofBytes:len(content):len(content)]
	return &h.mail, nil
}

// putBy returns the nonce of the Put that stored the first message of mail, and the
// place of the entry.
func putBy(message []byte) (by nonce, place int64, err error) {
	h := head{}
	_, err = decodeSome(message, &h)
	return h.by, h.place, err
}
