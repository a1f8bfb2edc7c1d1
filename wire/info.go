package wire

import (
	"encoding/json"
	"fmt"
	"time"
)

// InfoURI is the URI of an Info request, which isn't signed.
const InfoURI = Unstable + string(Info)

// MaxInfoBytes bounds the answer to an Info request, and InfoAge is how long it may be
// kept.
const (
	MaxInfoBytes = 16 << 10
	InfoAge      = time.Hour
)

// A Mode says whose mail a relay keeps.
type Mode string

// Modes. A relay whose mode is none of these has rules of its own.
const (
	Open   Mode = "open"
	Invite Mode = "invite"
	Closed Mode = "closed"
)

// Extensions that a relay may have, by the names in docs/protocol.md.
var Extensions = []string{"batches", Waiting, "transaction_ids", "relay_proof", "passing_on"}

// Waiting is the extension of a relay that holds answers until there is mail.
const Waiting = "waiting"

// Names of more, which not all relays of this kind have.
const (
	RecordsExtension  = "relay_records"
	ReceiptsExtension = "receipts"
	ListsExtension    = "lists"
	PolicyExtension   = "policy"
)

// A RelayInfo is the answer to an Info request: a relay's abilities and its
// limits. In numbers zero means that there is no limit, or that it isn't known.
type RelayInfo struct {
	// Mode is empty if the relay has rules of its own.
	Mode Mode `json:"mode,omitempty"`

	// Extensions are those that it knows.
	Extensions []string `json:"extensions"`

	// MaxBodyBytes bounds a transaction, MaxBatch and MaxBatchBytes the transactions in
	// one answer.
	MaxBodyBytes  int64 `json:"max_body_bytes,omitempty"`
	MaxBatch      int   `json:"max_batch,omitempty"`
	MaxBatchBytes int64 `json:"max_batch_bytes,omitempty"`

	// MaxWaitMS is for how long an answer is held at most, LifetimeMS how long mail is
	// kept that isn't fetched, in milliseconds.
	MaxWaitMS  int64 `json:"max_wait_ms,omitempty"`
	LifetimeMS int64 `json:"lifetime_ms,omitempty"`

	// Unclaimed has the limits of a mailbox whose owner hasn't asked here yet, in the
	// mode Open.
	Unclaimed *Unclaimed `json:"unclaimed,omitempty"`
}

// Unclaimed are the limits of a mailbox whose owner hasn't asked for its mail yet.
type Unclaimed struct {
	MaxEntries int64 `json:"max_entries,omitempty"`
	MaxBytes   int64 `json:"max_bytes,omitempty"`
	LifetimeMS int64 `json:"lifetime_ms,omitempty"`
}

// ReadInfo reads the answer to an Info request. Unknown fields are ignored,
// and numbers that are negative count as unknown.
func ReadInfo(body []byte) (RelayInfo, error) {
	var info RelayInfo
	if len(body) > MaxInfoBytes {
		return RelayInfo{}, fmt.Errorf("wire: the relay's info has more than %d bytes", MaxInfoBytes)
	}
	if err := json.Unmarshal(body, &info); err != nil {
		return RelayInfo{}, fmt.Errorf("wire: the relay's info: %w", err)
	}
	for _, n := range []*int64{&info.MaxBodyBytes, &info.MaxBatchBytes, &info.MaxWaitMS, &info.LifetimeMS} {
		*n = max(*n, 0)
	}
	info.MaxBatch = max(info.MaxBatch, 0)
	return info, nil
}
