package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// A MailboxPolicy is a server's policy for its mailboxes at relays: whose mail always
// has room there. See wire.MailboxPolicy for the fields. The zero value makes all alike.
type MailboxPolicy struct {
	Allow     []spec.ServerName `json:"allow,omitempty"`
	Deny      []spec.ServerName `json:"deny,omitempty"`
	Strangers *wire.Strangers   `json:"strangers,omitempty"`
}

// sorted returns the policy with its lists in order, each name once.
func (p MailboxPolicy) sorted() MailboxPolicy {
	sort := func(list []spec.ServerName) []spec.ServerName {
		return slices.Compact(slices.Sorted(slices.Values(list)))
	}
	sorted := MailboxPolicy{Allow: sort(p.Allow), Deny: sort(p.Deny)}
	if p.Strangers != nil {
		bounds := *p.Strangers
		sorted.Strangers = &bounds
	}
	return sorted
}

// isThat reports whether a policy that holds at a relay says the same. Both are sorted.
func (p MailboxPolicy) isThat(holds wire.MailboxPolicy) bool {
	if (p.Strangers == nil) != (holds.Strangers == nil) || p.Strangers != nil && *p.Strangers != *holds.Strangers {
		return false
	}
	return slices.Equal(p.Allow, holds.Allow) && slices.Equal(p.Deny, holds.Deny)
}

// Mailbox asks a relay how this server's mailbox is. A *wire.Error of 403 says that the
// server has none there, 404 or 405 that the relay doesn't know the question.
func (c *Caller) Mailbox(ctx context.Context, relay spec.ServerName) (state wire.MailboxState, err error) {
	err = c.own(ctx, http.MethodGet, relay, wire.MailboxURI, nil, &state)
	return state, err
}

// MailboxPolicy asks a relay for the policy that holds for this server's mailbox. Its
// number is 0 if there is none.
func (c *Caller) MailboxPolicy(ctx context.Context, relay spec.ServerName) (holds wire.MailboxPolicy, err error) {
	err = c.own(ctx, http.MethodGet, relay, wire.PolicyURI, nil, &holds)
	return holds, err
}

// SetMailboxPolicy sets the policy for this server's mailbox at a relay, whose name
// Mailbox tells. It returns nil once it holds. A *wire.Error of 403 says that the mailbox
// is another by now, 409 that another policy holds whose number is at least as great.
func (c *Caller) SetMailboxPolicy(ctx context.Context, relay spec.ServerName, p wire.MailboxPolicy) error {
	if err := p.Check(); err != nil {
		return fmt.Errorf("client: policy: %w", err)
	}
	err := c.own(ctx, http.MethodPut, relay, wire.PolicyURI, p, &struct{}{})
	if hasStatus(err, http.StatusConflict) && c.hasPolicy(ctx, relay, p) {
		return nil
	}
	return err
}

// hasPolicy reports whether just that policy holds: the request that set it was sent again,
// since its answer was lost.
func (c *Caller) hasPolicy(ctx context.Context, relay spec.ServerName, p wire.MailboxPolicy) bool {
	holds, err := c.MailboxPolicy(ctx, relay)
	want := MailboxPolicy{Allow: p.Allow, Deny: p.Deny, Strangers: p.Strangers}
	return err == nil && holds.Mailbox == p.Mailbox && holds.Seq == p.Seq && want.sorted().isThat(holds)
}

// own makes a request about this server's mailbox, and reads the answer.
func (c *Caller) own(ctx context.Context, method string, relay spec.ServerName, uri string, content, into any) error {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	body, err := c.callAbout(ctx, c.config.Identity.ServerName, relay, method, uri, content, maxOwnerAnswer)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("client: %s at %s: %w: %w", uri, relay, errNoAnswer, err)
	}
	return nil
}

// maxOwnerAnswer bounds an answer about a mailbox: it may escape letters that the policy didn't.
const maxOwnerAnswer = 2 * wire.MaxPolicyBytes

// agree has a relay have that policy for this server's mailbox, if it doesn't already.
func (c *Caller) agree(ctx context.Context, relay spec.ServerName, want MailboxPolicy) error {
	state, err := c.Mailbox(ctx, relay)
	if err != nil {
		return err
	}
	holds := wire.MailboxPolicy{}
	if state.PolicySeq > 0 {
		if holds, err = c.MailboxPolicy(ctx, relay); err != nil {
			return err
		}
	}
	if want.isThat(holds) {
		return nil
	}
	return c.SetMailboxPolicy(ctx, relay, wire.MailboxPolicy{
		Mailbox: state.Mailbox, Seq: max(state.PolicySeq, holds.Seq) + 1,
		Allow: want.Allow, Deny: want.Deny, Strangers: want.Strangers,
	})
}

// isUnknownThere reports whether an error says that a relay doesn't know a request, as
// relays and the proxies in front of them say it.
func isUnknownThere(err error) bool {
	return errors.Is(err, errNoAnswer) || hasStatus(err,
		http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented)
}

// hasStatus reports whether an error is an answer with one of those statuses.
func hasStatus(err error, statuses ...int) bool {
	var e *wire.Error
	return errors.As(err, &e) && slices.Contains(statuses, e.Status)
}

// Leave has this server's mailbox at a relay take no more mail: see wire.Leaving. It
// returns nil once that is so. A *wire.Error of 403 says that the mailbox is another by
// now.
func (c *Caller) Leave(ctx context.Context, relay spec.ServerName, leaving wire.Leaving) error {
	return c.own(ctx, http.MethodPut, relay, wire.LeaveURI, leaving, &struct{}{})
}

// Return has this server's mailbox at a relay, which it has left, take mail again, under
// another name. It returns nil also if the mailbox takes mail under another name already. A
// *wire.Error of 403 says that it wasn't left under that name, of 507 that there is no room for
// it any more.
func (c *Caller) Return(ctx context.Context, relay spec.ServerName, back wire.Return) error {
	err := c.own(ctx, http.MethodPut, relay, wire.MailboxURI, back, &struct{}{})
	if !hasStatus(err, http.StatusForbidden) {
		return err
	}
	// It works once, and may have been sent again, since its answer was lost.
	if state, failed := c.Mailbox(ctx, relay); failed != nil || state.State != wire.StateOpen || state.Mailbox == back.After {
		return err
	}
	return nil
}
