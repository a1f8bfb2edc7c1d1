package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
)

// EmptyAnswer is the answer to RelayTxn when there is no mail, as deployed
// relays give it, EmptyBatch that to a request with a limit, EmptyTaking that of a relay
// that takes receipts: see TakingReceipts.
const (
	EmptyAnswer = `{"transaction":{"origin":"","origin_server_ts":0,"pdus":null},"entries_queued":false}`
	EmptyBatch  = `{"transaction":{"origin":"","origin_server_ts":0,"pdus":null},"entries_queued":false,"more":[]}`
	EmptyTaking = `{"receipts":true,"transaction":{"origin":"","origin_server_ts":0,"pdus":null},"entries_queued":false,"more":[]}`
)

// SentAnswer is the answer to SendRelay, deployed relays answer null.
// ProvenAnswer is the answer to one with a proof that was checked.
const (
	SentAnswer   = `{}`
	ProvenAnswer = `{"proven":true}`
)

// WithRelaysSeq returns SentAnswer or ProvenAnswer with the Seq of the destination's
// RelayRecord in it, so that the sender can ask for one that it doesn't know.
func WithRelaysSeq(answer string, seq uint64) []byte {
	out := []byte(strings.TrimSuffix(answer, "}"))
	if len(out) > len("{") {
		out = append(out, ',')
	}
	out = append(out, `"relays_seq":`...)
	return append(strconv.AppendUint(out, seq, 10), '}')
}

// RelaysSeq reads it, 0 if there is none.
func RelaysSeq(answer []byte) uint64 {
	var a struct {
		Seq uint64 `json:"relays_seq"`
	}
	if json.Unmarshal(answer, &a) != nil || a.Seq > MaxInteger {
		return 0
	}
	return a.Seq
}

// IsProven reports whether an answer to SendRelay is ProvenAnswer.
func IsProven(answer []byte) bool {
	var a struct {
		Proven bool `json:"proven"`
	}
	return json.Unmarshal(answer, &a) == nil && a.Proven
}

// ReadEntryID reads the body of a RelayTxn request. The error is an *Error,
// 400 M_NOT_JSON or M_BAD_JSON.
func ReadEntryID(body []byte) (int64, error) {
	if !json.Valid(body) {
		return 0, BadRequest(spec.ErrorNotJSON, "the body isn't JSON")
	}
	var entry fclient.RelayEntry
	if bytes.TrimLeft(body, space)[0] != '{' || json.Unmarshal(body, &entry) != nil {
		return 0, BadRequest(spec.ErrorBadJSON, "the body must be an object whose entry_id is an integer")
	}
	if entry.EntryID < 0 {
		return 0, BadRequest(spec.ErrorBadJSON, "entry_id is negative")
	}
	return entry.EntryID, nil
}

// An Item is a transaction in an answer that is made.
type Item struct {
	ID            int64
	TransactionID gomatrixserverlib.TransactionID

	// Transaction and Proof are JSON objects that are taken over as they are.
	// Proof may be empty.
	Transaction []byte
	Proof       []byte
}

// MakeAnswer returns the answer to RelayTxn that holds the items, of which
// there is at least one, in pieces that needn't be put together. Only the
// answer to a request with a limit is a batch, with a list of the other items.
func MakeAnswer(items []Item, batch bool) (pieces [][]byte) {
	pieces = items[0].append(pieces, `{"transaction":`, `,"entries_queued":true`)
	if !batch {
		return append(pieces, []byte(`}`))
	}
	before := `,"more":[{"transaction":`
	for i := range items[1:] {
		pieces = items[i+1].append(pieces, before, "")
		before = `},{"transaction":`
	}
	if len(items) == 1 {
		return append(pieces, []byte(`,"more":[]}`))
	}
	return append(pieces, []byte(`}]}`))
}

// append appends the item without the closing of its object.
func (i *Item) append(pieces [][]byte, before, behind string) [][]byte {
	tail := strconv.AppendInt([]byte(`,"entry_id":`), i.ID, 10)
	tail = append(tail, behind...)
	if id, err := json.Marshal(i.TransactionID); err == nil { // a string: always
		tail = append(append(tail, `,"transaction_id":`...), id...)
	}
	if len(i.Proof) > 0 {
		tail = append(append(tail, `,"relay_proof":`...), i.Proof...)
	}
	return append(pieces, []byte(before), i.Transaction, tail)
}

// An Answer is the answer of a relay to RelayTxn.
type Answer struct {
	// Transaction is the JSON of the transaction as the relay sent it, with
	// the fields that gomatrixserverlib.Transaction leaves out.
	Transaction json.RawMessage

	// EntryID acknowledges the transaction, and those before it, when it is
	// asked with next.
	EntryID int64

	// EntriesQueued says that this answer holds a transaction.
	EntriesQueued bool

	// TransactionID is the ID that its origin gave the transaction; deployed relays
	// don't say.
	TransactionID gomatrixserverlib.TransactionID

	// Proof is a Proof in JSON, unchecked, and empty if there is none.
	Proof json.RawMessage

	// Origin, Digest (see Content) and Bytes are set if the entry is only listed: see
	// IsListed. They are the relay's words.
	Origin spec.ServerName
	Digest [sha256.Size]byte
	Bytes  int64

	// Receipts says that the relay takes receipts with the next request: see Fetch.
	Receipts bool

	// More are the transactions behind this one in a batch. It is nil if the
	// relay doesn't know batches; in More it is always nil.
	More []Answer
}

// IsListed reports whether the entry is only listed, and the transaction is to be asked
// for with Query.IDs. All in one answer are, or none is: relays that don't know Query.List
// give the transactions.
func (a *Answer) IsListed() bool { return a.EntriesQueued && a.Transaction == nil }

// ReadList is ReadAnswer for a request with Query.List.
func ReadList(body []byte) (Answer, error) { return readAnswer(body, true) }

// ReadAnswer reads the answer to RelayTxn. It fails for bytes that can't be an
// answer, such as one that says it holds a transaction and doesn't, or one
// whose entries are out of order.
func ReadAnswer(body []byte) (Answer, error) { return readAnswer(body, false) }

func readAnswer(body []byte, mayList bool) (Answer, error) {
	// With batches this is much faster than encoding/json, but knows no bounds.
	if !isShaped(body, MaxDepth+answerDepth) || !gjson.ValidBytes(body) {
		return Answer{}, errors.New("wire: relay_txn answer: it isn't JSON, or nests too deep")
	}
	a, more, err := readEntry(gjson.ParseBytes(body))
	if err != nil {
		return Answer{}, err
	}
	if more.Exists() && more.Type != gjson.Null {
		if err := a.readMore(more); err != nil {
			return Answer{}, err
		}
	}
	if !a.EntriesQueued {
		if a.More != nil {
			a.More = []Answer{}
		}
		return Answer{More: a.More, Receipts: a.Receipts}, nil
	}
	listed := mayList && a.IsListed()
	if err := a.check(0, listed); err != nil {
		return Answer{}, err
	}
	last := a.EntryID
	for i := range a.More {
		if err := a.More[i].check(last, listed); err != nil {
			return Answer{}, err
		}
		last = a.More[i].EntryID
	}
	return a, nil
}

// readEntry reads an answer, or one of those in more.
func readEntry(object gjson.Result) (a Answer, more gjson.Result, err error) {
	if !object.IsObject() {
		return a, more, errors.New("wire: relay_txn answer: it isn't a JSON object")
	}
	object.ForEach(func(key, value gjson.Result) bool {
		if value.Type == gjson.Null {
			return true
		}
		switch key.String() {
		case "transaction":
			a.Transaction = json.RawMessage(value.Raw)
		case "entry_id":
			a.EntryID, err = strconv.ParseInt(value.Raw, 10, 64)
		case "entries_queued":
			a.EntriesQueued = value.Bool()
			if !value.IsBool() {
				err = errors.New("entries_queued is no boolean")
			}
		case "transaction_id":
			a.TransactionID = gomatrixserverlib.TransactionID(value.String())
		case "relay_proof":
			a.Proof = json.RawMessage(value.Raw)
		case "origin":
			a.Origin = spec.ServerName(value.String())
		case "digest":
			err = readDigest(value.String(), &a.Digest)
		case "bytes":
			a.Bytes = max(value.Int(), 0)
		case "receipts":
			a.Receipts = value.Type == gjson.True
		case "more":
			more = value
		}
		return err == nil
	})
	if err != nil {
		err = fmt.Errorf("wire: relay_txn answer: %w", err)
	}
	return a, more, err
}

func (a *Answer) readMore(list gjson.Result) (err error) {
	if !list.IsArray() {
		return errors.New("wire: relay_txn answer: more isn't a list")
	}
	a.More = []Answer{}
	list.ForEach(func(_, item gjson.Result) bool {
		var one Answer
		one, _, err = readEntry(item)
		one.EntriesQueued = true
		a.More = append(a.More, one)
		return err == nil
	})
	return err
}

func (a *Answer) check(last int64, listed bool) error {
	switch {
	case a.EntryID <= 0:
		return errors.New("wire: relay_txn answer: a transaction without a positive entry_id")
	case a.EntryID <= last:
		return fmt.Errorf("wire: relay_txn answer: entry %d follows %d", a.EntryID, last)
	case listed && (a.Transaction != nil || CheckName(a.Origin) != nil):
		return errors.New("wire: relay_txn answer: a list of entries with a transaction, or without an origin")
	case !listed && (len(a.Transaction) == 0 || a.Transaction[0] != '{'):
		return errors.New("wire: relay_txn answer: entries_queued, but no transaction")
	}
	return nil
}

// Decode reads the transaction's fields. TransactionID and Destination don't
// come with it.
func (a *Answer) Decode() (gomatrixserverlib.Transaction, error) {
	var t gomatrixserverlib.Transaction
	if err := json.Unmarshal(a.Transaction, &t); err != nil {
		return t, fmt.Errorf("wire: transaction of entry %d: %w", a.EntryID, err)
	}
	return t, nil
}
