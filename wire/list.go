package wire

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A Listed describes an entry without its transaction, by the relay's word. See Query.List.
type Listed struct {
	EntryID       int64                           `json:"entry_id"`
	Origin        spec.ServerName                 `json:"origin"`
	TransactionID gomatrixserverlib.TransactionID `json:"transaction_id"`

	// Digest is that of the content: see Content.
	Digest listedDigest `json:"digest"`

	// Bytes is the size of the transaction and its proof.
	Bytes int64 `json:"bytes"`
}

type listedDigest [sha256.Size]byte

// MarshalText implements encoding.TextMarshaler.
func (d listedDigest) MarshalText() ([]byte, error) { return []byte(encodeDigest(d)), nil }

// MakeList returns the answer that lists entries, of which there is at least one.
func MakeList(entries []Listed) ([]byte, error) {
	list := struct {
		Listed
		EntriesQueued bool     `json:"entries_queued"`
		More          []Listed `json:"more"`
	}{entries[0], true, append([]Listed{}, entries[1:]...)}
	text, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("wire: list: %w", err)
	}
	return text, nil
}

// TakingReceipts returns an answer to RelayTxn that says that the relay takes receipts.
func TakingReceipts(pieces [][]byte) [][]byte {
	first := append([]byte(`{"receipts":true,`), pieces[0][1:]...)
	return append([][]byte{first}, pieces[1:]...)
}
