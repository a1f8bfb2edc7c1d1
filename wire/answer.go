package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// EmptyAnswer is the answer to RelayTxn when there is no mail, as deployed
// relays give it.
const EmptyAnswer = `{"transaction":{"origin":"","origin_server_ts":0,"pdus":null},"entries_queued":false}`

// SentAnswer is the answer to SendRelay. Deployed relays answer null.
const SentAnswer = `{}`

// ReadEntryID reads the body of a RelayTxn request. The error is an *Error,
// 400 M_NOT_JSON or M_BAD_JSON.
func ReadEntryID(body []byte) (int64, error) {
	if !json.Valid(body) {
		return 0, BadRequest(spec.ErrorNotJSON, "the body isn't JSON")
	}
	var entry fclient.RelayEntry
	if bytes.TrimLeft(body, " \t\r\n")[0] != '{' || json.Unmarshal(body, &entry) != nil {
		return 0, BadRequest(spec.ErrorBadJSON, "the body must be an object whose entry_id is an integer")
	}
	if entry.EntryID < 0 {
		return 0, BadRequest(spec.ErrorBadJSON, "entry_id is negative")
	}
	return entry.EntryID, nil
}

// AnswerAround returns what stands before and behind a transaction, a JSON
// object that is taken over as it is, in the answer to RelayTxn.
func AnswerAround(id int64) (before, behind []byte) {
	behind = strconv.AppendInt([]byte(`,"entry_id":`), id, 10)
	return []byte(`{"transaction":`), append(behind, `,"entries_queued":true}`...)
}

// An Answer is what a relay answers to RelayTxn.
type Answer struct {
	// Transaction is the JSON of the transaction as the relay sent it, with
	// the fields that gomatrixserverlib.Transaction leaves out.
	Transaction json.RawMessage `json:"transaction"`

	// EntryID acknowledges the transaction when it is asked with next.
	EntryID int64 `json:"entry_id"`

	// EntriesQueued says that this answer holds a transaction.
	EntriesQueued bool `json:"entries_queued"`
}

// ReadAnswer reads the answer to RelayTxn. It fails for what can't be an
// answer, such as one that says it holds a transaction and doesn't.
func ReadAnswer(body []byte) (Answer, error) {
	var a Answer
	if err := json.Unmarshal(body, &a); err != nil {
		return Answer{}, fmt.Errorf("wire: relay_txn answer: %w", err)
	}
	if !a.EntriesQueued {
		return Answer{}, nil
	}
	if a.EntryID <= 0 {
		return Answer{}, errors.New("wire: relay_txn answer: a transaction without a positive entry_id")
	}
	if len(a.Transaction) == 0 || a.Transaction[0] != '{' {
		return Answer{}, errors.New("wire: relay_txn answer: entries_queued, but no transaction")
	}
	return a, nil
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
