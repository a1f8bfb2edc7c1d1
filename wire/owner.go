package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// The URIs of Policy and Leave requests.
const (
	PolicyURI = Unstable + string(Policy)
	LeaveURI  = Unstable + string(Leave)
)

// Bounds of a MailboxPolicy: its JSON, and the names in both lists together. Its numbers
// are at most MaxInteger.
const (
	MaxPolicyBytes = 80 << 10
	MaxPolicyNames = 1000
)

// maxMailboxName bounds the name of a mailbox.
const maxMailboxName = 64

// A MailboxState is the answer to a GET of Mailbox: how the asking server's mailbox is.
type MailboxState struct {
	// Mailbox is the mailbox's name, which is made at random. Requests that change the
	// mailbox name it, so that they are of no use once the mailbox is another.
	Mailbox string `json:"mailbox"`

	// State is StateOpen or StateLeft.
	State string `json:"state"`

	// PolicySeq is the number of the policy that holds, 0 if there is none.
	PolicySeq int64 `json:"policy_seq"`

	// Entries and Bytes are how much the mailbox holds.
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"`

	// OldestExpiresMS is for how long the oldest entry will still be kept, in
	// milliseconds. Zero: for ever, it isn't known, or there is none.
	OldestExpiresMS int64 `json:"oldest_expires_ms,omitempty"`
}

// States of a mailbox: it takes mail, or its owner has left it.
const (
	StateOpen = "open"
	StateLeft = "left"
)

// A Leaving is the body of a Leave request: the mailbox takes no more mail.
type Leaving struct {
	// Mailbox is its name: see MailboxState.
	Mailbox string `json:"mailbox"`

	// Discard drops the mail that is there. Otherwise it can be fetched.
	Discard bool `json:"discard,omitempty"`
}

// A Return is the body of a PUT of Mailbox by an owner that has left: its mailbox takes
// mail again, under another name.
type Return struct {
	// After is the name of the mailbox that was left.
	After string `json:"after"`
}

// LeftAnswer is the answer to an owner that has left its mailbox.
const LeftAnswer = `{"state":"left"}`

// ReadLeaving reads the body of a Leave request. The error is an *Error: 400.
func ReadLeaving(body []byte) (l Leaving, err error) {
	err = readNamed(body, &l, &l.Mailbox, "mailbox")
	return l, err
}

// ReadReturn reads the body of a PUT of Mailbox. If it is none, but may be a Claim, ok is
// false. The error is an *Error: 400.
func ReadReturn(body []byte) (r Return, ok bool, err error) {
	var either struct {
		Return
		Claim
	}
	if json.Unmarshal(body, &either) != nil || either.After == "" || either.Invite != "" {
		return Return{}, false, nil
	}
	err = readNamed(body, &r, &r.After, "after")
	return r, true, err
}

// readNamed reads a body in which a field must be the name of a mailbox.
func readNamed(body []byte, into any, field *string, called string) error {
	if err := json.Unmarshal(body, into); err != nil {
		return BadRequest(spec.ErrorNotJSON, "the body can't be read as JSON")
	}
	if *field == "" || len(*field) > maxMailboxName {
		return BadRequest(spec.ErrorBadJSON, called+" must be the name of a mailbox")
	}
	return nil
}

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
	if p.Seq < 1 || p.Seq > MaxInteger {
		return fmt.Errorf("seq must be from 1 to %d", int64(MaxInteger))
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
	if s := p.Strangers; s != nil && (min(s.Entries, s.Bytes) < 0 || max(s.Entries, s.Bytes) > MaxInteger) {
		return fmt.Errorf("strangers must have numbers from 0 to %d", int64(MaxInteger))
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
