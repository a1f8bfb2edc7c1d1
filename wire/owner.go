package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// PolicyURI is the URI of a Policy request.
const PolicyURI = Unstable + string(Policy)

// Bounds of a MailboxPolicy: its JSON, the names in both lists together, and numbers,
// which all JSON decoders must read alike.
const (
	MaxPolicyBytes = 80 << 10
	MaxPolicyNames = 1000
	MaxNumber      = 1<<53 - 1
)

// maxMailboxName bounds the name of a mailbox.
const maxMailboxName = 64

// A MailboxState is the answer to a GET of Mailbox: how the asking server's mailbox is.
type MailboxState struct {
	// Mailbox is the mailbox's name, which is made at random. Requests that change the
	// mailbox name it, so that they are of no use once the mailbox is another.
	Mailbox string `json:"mailbox"`

	// State is StateOpen.
	State string `json:"state"`

	// PolicySeq is the number of the policy that holds, 0 if there is none.
	PolicySeq int64 `json:"policy_seq"`

	// Entries and Bytes are what the mailbox holds.
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"`
}

// StateOpen is the state of a mailbox that takes mail.
const StateOpen = "open"

// A MailboxPolicy says whose mail has room in a mailbox. Its owner sets it.
type MailboxPolicy struct {
	// Mailbox is the mailbox's name: see MailboxState. Seq numbers the policies of the
	// mailbox: only a greater one takes the place of the one that holds.
	Mailbox string `json:"mailbox"`
	Seq     int64  `json:"seq"`

	// Allow are the servers whose mail may use the whole mailbox. Mail of those in Deny
	// is refused, also if they are in Allow.
	Allow []spec.ServerName `json:"allow"`
	Deny  []spec.ServerName `json:"deny"`

	// Strangers bounds the room of all other servers together. Nil: they have as much
	// as those in Allow.
	Strangers *Strangers `json:"strangers,omitempty"`
}

// Strangers are the bounds of mail of servers that the owner of a mailbox doesn't name:
// it is taken only as long as the mailbox holds no more than that, all mail counted. A
// zero bound: no such mail is taken.
type Strangers struct {
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"`
}

// ReadMailboxPolicy reads the body of a PUT of Policy. The error is an *Error: 400.
func ReadMailboxPolicy(body []byte) (MailboxPolicy, error) {
	var p MailboxPolicy
	if err := json.Unmarshal(body, &p); err != nil {
		return MailboxPolicy{}, BadRequest(spec.ErrorNotJSON, "the body can't be read as JSON")
	}
	if err := p.Check(); err != nil {
		return MailboxPolicy{}, BadRequest(spec.ErrorBadJSON, err.Error())
	}
	return p, nil
}

// Check says why no relay takes a policy.
func (p *MailboxPolicy) Check() error {
	if p.Mailbox == "" || len(p.Mailbox) > maxMailboxName {
		return errors.New("mailbox must be the name of a mailbox")
	}
	if p.Seq < 1 || p.Seq > MaxNumber {
		return fmt.Errorf("seq must be from 1 to %d", int64(MaxNumber))
	}
	return p.CheckContent()
}

// CheckContent is Check without the mailbox and the number.
func (p *MailboxPolicy) CheckContent() error {
	if len(p.Allow)+len(p.Deny) > MaxPolicyNames {
		return fmt.Errorf("allow and deny have more than %d names together", MaxPolicyNames)
	}
	for _, list := range [][]spec.ServerName{p.Allow, p.Deny} {
		for _, name := range list {
			if err := CheckName(name); err != nil {
				return fmt.Errorf("the server name %q: %w", name, err)
			}
		}
	}
	if s := p.Strangers; s != nil && (min(s.Entries, s.Bytes) < 0 || max(s.Entries, s.Bytes) > MaxNumber) {
		return fmt.Errorf("strangers must have numbers from 0 to %d", int64(MaxNumber))
	}
	return nil
}

// PolicySetAnswer is the answer to an owner whose policy holds now.
const PolicySetAnswer = `{}`

// PolicyHolds is a 409: a policy holds whose number is at least as great. The answer has
// it in the field policy.
func PolicyHolds(policy MailboxPolicy) *Error {
	return &Error{
		Status: http.StatusConflict, Code: spec.ErrorUnknown, Fields: map[string]any{"policy": policy},
		Message: fmt.Sprintf("the policy that holds has the number %d", policy.Seq),
	}
}
