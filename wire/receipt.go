package wire

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// Bounds of a Receipt: its JSON, and its items.
const (
	MaxReceiptBytes = 32 << 10
	MaxReceiptItems = 500
)

const (
	receiptType = "org.matrixrelay.receipt.v1"
	hourMS      = uint64(time.Hour / time.Millisecond)
)

// A Receipt says which transactions of a server another one has handled. The destination
// has signed it, so it doesn't matter from where it came, and no relay can make one up.
// Make one with SignReceipts or ReadReceipt, and don't change it: its signature is for
// these fields.
type Receipt struct {
	// Destination has handled the items, Origin has sent them.
	Destination spec.ServerName
	Origin      spec.ServerName

	// TS is when it was signed, in milliseconds: whole hours, so that it doesn't tell more
	// of when the destination was online.
	TS uint64

	// Items are 1 to MaxReceiptItems.
	Items []ReceiptItem

	text signedText
}

// A ReceiptItem is one transaction in a Receipt. One ID may stand for several contents, of
// which only that with the Digest (see Content) was handled.
type ReceiptItem struct {
	TransactionID gomatrixserverlib.TransactionID
	Digest        [sha256.Size]byte
}

// MarshalJSON implements json.Marshaler.
func (i ReceiptItem) MarshalJSON() ([]byte, error) {
	return json.Marshal([2]string{string(i.TransactionID), encodeDigest(i.Digest)})
}

// UnmarshalJSON implements json.Unmarshaler.
func (i *ReceiptItem) UnmarshalJSON(text []byte) error {
	var parts [2]string
	if err := json.Unmarshal(text, &parts); err != nil {
		return err
	}
	i.TransactionID = gomatrixserverlib.TransactionID(parts[0])
	return readDigest(parts[1], &i.Digest)
}

// canBeSigned reports whether a receipt may have the item. JSON has no IDs that
// aren't UTF-8.
func (i *ReceiptItem) canBeSigned() bool {
	return i.TransactionID != "" && len(i.TransactionID) <= MaxTransactionIDBytes && utf8.ValidString(string(i.TransactionID))
}

func encodeDigest(digest [sha256.Size]byte) string {
	return base64.RawURLEncoding.EncodeToString(digest[:])
}

func readDigest(text string, digest *[sha256.Size]byte) error {
	sum, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(sum) != len(digest) {
		return errors.New("a digest must be 32 bytes in base64url without padding")
	}
	copy(digest[:], sum)
	return nil
}

// receiptJSON is a Receipt on the wire.
type receiptJSON struct {
	signedFields
	Destination spec.ServerName `json:"destination"`
	Origin      spec.ServerName `json:"origin"`
	TS          uint64          `json:"ts"`
	Items       []ReceiptItem   `json:"items"`
}

func (o *receiptJSON) signer() (spec.ServerName, uint64) { return o.Destination, o.TS }

// SignReceipts makes receipts of by.ServerName for transactions of origin that it has handled
// by now, as few as hold the items. Items that no receipt can have are left out: those whose ID is
// empty, longer than MaxTransactionIDBytes or not UTF-8.
func SignReceipts(origin spec.ServerName, items []ReceiptItem, now time.Time, by fclient.SigningIdentity) ([]Receipt, error) {
	var good []ReceiptItem
	for _, item := range items {
		if item.canBeSigned() {
			good = append(good, item)
		}
	}
	object := &receiptJSON{
		signedFields: signedFields{Type: receiptType}, Destination: by.ServerName, Origin: origin,
		TS: uint64(max(now.UnixMilli(), 0)) / hourMS * hourMS,
	}
	var receipts []Receipt
	for len(good) > 0 {
		object.Items = good[:min(len(good), MaxReceiptItems)]
		text, err := signObject(object, by)
		for err == nil && len(text) > MaxReceiptBytes && len(object.Items) > 1 {
			object.Items = object.Items[:len(object.Items)/2]
			text, err = signObject(object, by)
		}
		if err != nil {
			return nil, err
		}
		receipt, err := ReadReceipt(text)
		if err != nil {
			return nil, err
		}
		receipts, good = append(receipts, receipt), good[len(object.Items):]
	}
	return receipts, nil
}

// ReadReceipt reads a receipt and checks all but its signature: see Check. The error wraps
// ErrSigned.
func ReadReceipt(text []byte) (Receipt, error) {
	var o receiptJSON
	signed, err := readSigned(text, MaxReceiptBytes, receiptType, &o)
	if err != nil {
		return Receipt{}, err
	}
	return Receipt{Destination: o.Destination, Origin: o.Origin, TS: o.TS, Items: o.Items, text: signed}, nil
}

func (o *receiptJSON) check() error {
	switch {
	case o.TS > MaxInteger || o.TS%hourMS != 0:
		return fmt.Errorf("%w: ts must be whole hours", ErrSigned)
	case len(o.Items) < 1 || len(o.Items) > MaxReceiptItems:
		return fmt.Errorf("%w: it must have 1 to %d items", ErrSigned, MaxReceiptItems)
	}
	for i := range o.Items {
		if !o.Items[i].canBeSigned() {
			return fmt.Errorf("%w: a transaction ID must have 1 to %d bytes", ErrSigned, MaxTransactionIDBytes)
		}
	}
	return cmp.Or(checkSignedName(o.Destination), checkSignedName(o.Origin))
}

// Check checks the signature. A key that is looked up must have been valid at TS, or now
// if that is earlier. The errors are those of RelayRecord.Check.
func (r *Receipt) Check(ctx context.Context, keys gomatrixserverlib.JSONVerifier, now time.Time) error {
	return r.text.check(ctx, keys, now)
}

// HasKnownKey reports whether Check asks nobody for the key.
func (r *Receipt) HasKnownKey(keys gomatrixserverlib.JSONVerifier) bool {
	known, ok := keys.(KnownKeys)
	if ok {
		_, ok = known.KnownKey(r.text.server, r.text.key)
	}
	return ok
}

// JSON is the receipt on the wire. It must not be changed.
func (r *Receipt) JSON() []byte { return r.text.json }

// MarshalJSON implements json.Marshaler.
func (r Receipt) MarshalJSON() ([]byte, error) { return r.text.json, nil }
