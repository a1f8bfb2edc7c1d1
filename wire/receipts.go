package wire

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// Bounds of the receipts in one request, and in one answer.
const (
	MaxReceipts      = 8
	MaxReceiptsBytes = MaxReceipts * MaxReceiptBytes

	// MaxSentReceiptsBytes bounds the receipts in the answer to SendRelay, except that
	// one always fits.
	MaxSentReceiptsBytes = 8 << 10
)

// MaxFetchBytes bounds the body of a RelayTxn request to a relay that takes receipts. All
// but the receipts has room in 4 KiB.
const MaxFetchBytes = 4<<10 + MaxReceiptsBytes

// ReceiptsURI is the URI of a Receipts request that brings receipts, with a ReceiptsBody.
// The relay removes the mail in its mailboxes that they are for.
const ReceiptsURI = Unstable + string(Receipts)

// AskReceiptsURI is the URI of a Receipts request that asks for the receipts that
// destination has given the asking server, of those that the relay has numbered higher
// than after.
func AskReceiptsURI(destination spec.ServerName, after int64) string {
	values := url.Values{"destination": {string(destination)}, "after": {strconv.FormatInt(after, 10)}}
	return ReceiptsURI + "?" + values.Encode()
}

// ReceiptsQuery asks, behind a SendRelayURI, for those receipts in the answer. A relay
// that doesn't know it ignores it.
func ReceiptsQuery(after int64) string { return "?receipts=" + strconv.FormatInt(after, 10) }

// A Fetch is the body of a RelayTxn request. Receipts are for relays whose last answer
// had Answer.Receipts.
type Fetch struct {
	EntryID  int64     `json:"entry_id"`
	Receipts []Receipt `json:"receipts,omitempty"`
}

// A ReceiptsBody is the body of a PUT of Receipts.
type ReceiptsBody struct {
	Receipts []Receipt `json:"receipts"`
}

// ReadReceipts reads the receipts in a Fetch or a ReceiptsBody, and checks all but their
// signatures. The error is an *Error: 400.
func ReadReceipts(body []byte) ([]Receipt, error) {
	var list struct {
		Receipts []json.RawMessage `json:"receipts"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, BadRequest(spec.ErrorBadJSON, "receipts must be a list")
	}
	if len(list.Receipts) > MaxReceipts {
		return nil, BadRequest(spec.ErrorBadJSON, fmt.Sprintf("there are more than %d receipts", MaxReceipts))
	}
	var receipts []Receipt
	for _, text := range list.Receipts {
		receipt, err := ReadReceipt(text)
		if err != nil {
			return nil, BadRequest(spec.ErrorBadJSON, err.Error())
		}
		receipts = append(receipts, receipt)
	}
	return receipts, nil
}

// ClearedAnswer is the answer to a PUT of Receipts that has removed so many entries.
func ClearedAnswer(cleared int) []byte { return fmt.Appendf(nil, `{"cleared":%d}`, cleared) }

// Cleared reads it, 0 if there is none.
func Cleared(answer []byte) int {
	var a struct {
		Cleared int `json:"cleared"`
	}
	if json.Unmarshal(answer, &a) != nil {
		return 0
	}
	return max(a.Cleared, 0)
}

// NewReceipts are the receipts in an answer to SendRelay or a GET of Receipts. Ask with
// Next for those that follow.
type NewReceipts struct {
	Receipts []json.RawMessage `json:"receipts"`
	Next     int64             `json:"receipts_next"`
}

// AnswerWith returns an answer to SendRelay with the receipts in it.
func (n NewReceipts) AnswerWith(answer []byte) []byte {
	if n.Receipts == nil {
		n.Receipts = []json.RawMessage{}
	}
	text, err := json.Marshal(n)
	if err != nil { // they were read as JSON
		return answer
	}
	if len(answer) <= len(`{}`) {
		return text
	}
	return append(append(answer[:len(answer)-1:len(answer)-1], ','), text[1:]...)
}

// ReadNewReceipts reads the receipts in an answer, ok false if there are none: the relay
// keeps none, or wasn't asked. Those that can't be read are passed over, and the others
// may not be signed: see Receipt.Check.
func ReadNewReceipts(answer []byte) (receipts []Receipt, next int64, ok bool) {
	var n NewReceipts
	if json.Unmarshal(answer, &n) != nil || n.Receipts == nil || n.Next < 0 || n.Next > MaxInteger {
		return nil, 0, false
	}
	for _, text := range n.Receipts {
		if receipt, err := ReadReceipt(text); err == nil {
			receipts = append(receipts, receipt)
		}
	}
	return receipts, n.Next, true
}
