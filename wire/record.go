package wire

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// Bounds of a RelayRecord.
const (
	MaxRecordBytes  = 4 << 10
	MaxRecordRelays = 8
	MaxRelayAt      = 2

	// RecordAge is how long a record is fresh at most.
	RecordAge = 91 * 24 * time.Hour
)

const recordType = "org.matrixrelay.relays.v1"

// A RelayRecord says where the mail for a server goes. The server has signed it, so it
// doesn't matter from where it came. Make one with SignRelayRecord, ReadRelayRecord
// or ReadLink, and don't change it: its signature is for these fields.
type RelayRecord struct {
	Server spec.ServerName

	// Seq grows with each record of the server. See NextSeq.
	Seq uint64

	// Expires is the time in milliseconds up to which it is fresh: see IsFresh.
	Expires uint64

	// Receipts says that the server gives receipts for the mail that it has handled.
	Receipts bool

	// Relays are 1 to MaxRecordRelays.
	Relays []RecordRelay

	text signedText
}

// A RecordRelay is a relay in a RelayRecord.
type RecordRelay struct {
	Name spec.ServerName `json:"name"`

	// At are up to MaxRelayAt addresses of it, of the form https://host:port. They are
	// a stranger's words.
	At []string `json:"at,omitempty"`
}

// recordJSON is a RelayRecord on the wire.
type recordJSON struct {
	signedFields
	Server   spec.ServerName `json:"server"`
	Seq      uint64          `json:"seq"`
	Expires  uint64          `json:"expires"`
	Receipts bool            `json:"receipts"`
	Relays   []RecordRelay   `json:"relays"`
}

func (o *recordJSON) signer() (spec.ServerName, uint64) { return o.Server, o.Seq }

// SignRelayRecord makes the record of by.ServerName. Of draft, Seq, Expires, Receipts and
// Relays count.
func SignRelayRecord(draft RelayRecord, by fclient.SigningIdentity) (RelayRecord, error) {
	text, err := signObject(&recordJSON{
		signedFields: signedFields{Type: recordType}, Server: by.ServerName, Seq: draft.Seq, Expires: draft.Expires,
		Receipts: draft.Receipts, Relays: draft.Relays,
	}, by)
	if err != nil {
		return RelayRecord{}, err
	}
	return ReadRelayRecord(text)
}

// ReadRelayRecord reads a record and checks all but its signature: see Check. The error
// wraps ErrSigned.
func ReadRelayRecord(text []byte) (RelayRecord, error) {
	var o recordJSON
	signed, err := readSigned(text, MaxRecordBytes, recordType, &o)
	if err != nil {
		return RelayRecord{}, err
	}
	return RelayRecord{
		Server: o.Server, Seq: o.Seq, Expires: o.Expires, Receipts: o.Receipts, Relays: o.Relays, text: signed,
	}, nil
}

func (o *recordJSON) check() error {
	switch {
	case o.Seq > MaxInteger || o.Expires > MaxInteger:
		return fmt.Errorf("%w: a number is too large", ErrSigned)
	case len(o.Relays) < 1 || len(o.Relays) > MaxRecordRelays:
		return fmt.Errorf("%w: it must name 1 to %d relays", ErrSigned, MaxRecordRelays)
	}
	if err := checkSignedName(o.Server); err != nil {
		return err
	}
	known := map[spec.ServerName]bool{o.Server: true}
	for _, relay := range o.Relays {
		if err := relay.check(); err != nil {
			return err
		}
		if known[relay.Name] {
			return fmt.Errorf("%w: a relay is there twice, or is the server itself", ErrSigned)
		}
		known[relay.Name] = true
	}
	return nil
}

func checkSignedName(server spec.ServerName) error {
	if err := CheckName(server); err != nil {
		return fmt.Errorf("%w: server name %q: %w", ErrSigned, server, err)
	}
	return nil
}

func (r *RecordRelay) check() error {
	if err := checkSignedName(r.Name); err != nil {
		return err
	}
	if len(r.At) > MaxRelayAt {
		return fmt.Errorf("%w: a relay has more than %d addresses", ErrSigned, MaxRelayAt)
	}
	for _, at := range r.At {
		u, err := url.Parse(at)
		if err != nil || u.Hostname() == "" || at != "https://"+u.Host {
			return fmt.Errorf("%w: the address of a relay is https:// and a host, and a port at most", ErrSigned)
		}
	}
	return nil
}

// Check checks the signature. A key that is looked up must have been valid at Seq, or now
// if that is earlier. The error wraps ErrSigned if the server didn't sign it, ErrNoKey
// if that can't be told since there is no key, and is another one if looking for keys
// failed.
func (r *RelayRecord) Check(ctx context.Context, keys gomatrixserverlib.JSONVerifier, now time.Time) error {
	return r.text.check(ctx, keys, now)
}

// JSON is the record on the wire. It must not be changed.
func (r *RelayRecord) JSON() []byte { return r.text.json }

// Hash identifies the content of the record.
func (r *RelayRecord) Hash() [sha256.Size]byte { return r.text.hash() }

// Names reports whether relay is one of Relays.
func (r *RelayRecord) Names(relay spec.ServerName) bool {
	for _, named := range r.Relays {
		if named.Name == relay {
			return true
		}
	}
	return false
}

// Precedes reports whether the record is older than other, one of the same server: its
// Seq is smaller, or its Hash is greater. All servers decide alike, in whichever order
// records come.
func (r *RelayRecord) Precedes(other *RelayRecord) bool {
	if r.Seq != other.Seq {
		return r.Seq < other.Seq
	}
	mine, others := r.Hash(), other.Hash()
	return bytes.Compare(mine[:], others[:]) > 0
}

// Replaces reports whether the record takes the place of held, one of the same server
// that was good when it came. It does if held is older, or if the key of held has been
// withdrawn since: else a stolen key could sign the last record for good. The record
// itself must have passed Check. An error means that looking for keys failed.
func (r *RelayRecord) Replaces(ctx context.Context, held *RelayRecord, keys gomatrixserverlib.JSONVerifier, now time.Time) (bool, error) {
	if held.Precedes(r) {
		return true, nil
	}
	if bytes.Equal(held.text.unsigned, r.text.unsigned) {
		return false, nil
	}
	err := held.Check(ctx, keys, now)
	switch {
	case err == nil:
		return false, nil
	case errors.Is(err, ErrSigned), errors.Is(err, ErrKeyNotValid):
		return true, nil
	case errors.Is(err, ErrNoKey):
		return false, nil
	}
	return false, err
}

// IsFresh reports whether the record is to be relied on: others are a last resort.
func (r *RelayRecord) IsFresh(now time.Time) bool {
	ms := uint64(max(now.UnixMilli(), 0))
	return ms < r.Expires && r.Expires <= ms+uint64(RecordAge.Milliseconds())
}

// NextSeq is the Seq of a server's next record, if the greatest that it knows of its own
// is that (0: none). It has the day in it, so that a server that has lost its records
// goes on above them, and no more of the time than that. A clock outside the years
// 2025 to 2100 isn't set, and doesn't count.
func NextSeq(now time.Time, greatest uint64) uint64 {
	const day = 24 * time.Hour
	var today uint64
	if year := now.UTC().Year(); year >= 2025 && year <= 2100 {
		today = uint64(now.Truncate(day).UnixMilli())
	}
	return max(today, greatest+1)
}

// linkPrefix begins a link.
const linkPrefix = "matrixrelay:"

// Link is the record as a text that people send each other. It names the server, and
// shows where its mail goes.
func (r *RelayRecord) Link() string {
	return linkPrefix + base64.RawURLEncoding.EncodeToString(r.text.json)
}

// ReadLink reads a text that Link made, with any space in it, and checks all but the
// signature: see Check. The error wraps ErrSigned. Show the person that has the link
// RelayRecord.Server, before it is used.
func ReadLink(link string) (RelayRecord, error) {
	encoded, ok := strings.CutPrefix(strings.Join(strings.Fields(link), ""), linkPrefix)
	if !ok {
		return RelayRecord{}, fmt.Errorf("%w: it is no link: it begins with %s", ErrSigned, linkPrefix)
	}
	if len(encoded) > base64.RawURLEncoding.EncodedLen(MaxRecordBytes) {
		return RelayRecord{}, fmt.Errorf("%w: the link is too long", ErrSigned)
	}
	text, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return RelayRecord{}, fmt.Errorf("%w: the link was changed on its way: %w", ErrSigned, err)
	}
	return ReadRelayRecord(text)
}
