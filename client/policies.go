package client

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

const (
	// policyNote is the key of the note with a Node's policy.
	policyNote = "node/policy"

	// agreedFor is how long a relay isn't asked again that has the policy, or doesn't
	// know policies. It may be restored from a backup, or updated.
	agreedFor = 24 * time.Hour
)

// disagreed is how long a relay is left alone that didn't take the policy. It may have no
// mailbox for this server until that has asked for its mail.
// A relay that forbids it for days may do so for good.
var (
	disagreed = Backoff{First: time.Second, Most: time.Hour}.withDefaults()
	forbidden = Backoff{First: time.Second, Most: agreedFor}.withDefaults()
)

// policies has this server's relays have its policy.
type policies struct {
	caller *Caller
	peers  *Peers
	notes  store.Notes
	logger *slog.Logger

	writing sync.Mutex // it is changed by one call at a time

	mu      sync.Mutex
	want    *MailboxPolicy // nil: the embedder has none
	changed chan struct{}  // closed by wake
	agreed  map[spec.ServerName]agreement
}

// An agreement is that a relay has a policy.
type agreement struct {
	on *MailboxPolicy
	at time.Time
}

func openPolicies(ctx context.Context, caller *Caller, peers *Peers, notes store.Notes, logger *slog.Logger) (*policies, error) {
	if logger == nil {
		logger = slog.Default()
	}
	p := &policies{caller: caller, peers: peers, notes: notes, logger: logger, changed: make(chan struct{})}
	p.agreed = make(map[spec.ServerName]agreement)
	value, err := notebook.Read(ctx, notes, policyNote)
	if err != nil {
		return nil, fmt.Errorf("client: node: policy: %w", err)
	}
	if value == nil {
		return p, nil
	}
	want := &MailboxPolicy{}
	if err := json.Unmarshal(value, want); err != nil {
		return p, setAside(ctx, notes, logger, store.Note{Key: policyNote, Value: value}, err)
	}
	p.want = want
	return p, nil
}

// SetPolicy says whose mail always has room in this server's mailboxes: usually that of
// the servers with which it shares rooms. It is kept in the store, and Run has all relays
// of this server have it that know policies, also those that are added later. An error
// means that nothing has changed, or, if it isn't about the policy itself, that it may
// be forgotten.
func (n *Node) SetPolicy(ctx context.Context, policy MailboxPolicy) error {
	return n.policies.set(ctx, policy.sorted())
}

// Policy returns the policy of SetPolicy, with sorted lists, and whether there is one.
func (n *Node) Policy() (policy MailboxPolicy, ok bool) {
	want, _ := n.policies.wanted()
	if want == nil {
		return MailboxPolicy{}, false
	}
	return want.sorted(), true
}

// Mailbox asks a relay how this server's mailbox is: see Caller.Mailbox.
func (n *Node) Mailbox(ctx context.Context, relay spec.ServerName) (wire.MailboxState, error) {
	return n.caller.Mailbox(ctx, relay)
}

// Leave has this server's mailbox at a relay take no more mail, and drops the mail that is
// there if it is to be discarded. If the record of Announce names the relay, the next one
// doesn't; if it names no other, there is no next one, and it expires. Leave doesn't change
// the relays that were entered by hand: see SetRelays. A *wire.Error of 403 says that the
// server has no mailbox there.
func (n *Node) Leave(ctx context.Context, relay spec.ServerName, discard bool) error {
	state, err := n.caller.Mailbox(ctx, relay)
	if err != nil {
		return err
	}
	if err := n.caller.Leave(ctx, relay, wire.Leaving{Mailbox: state.Mailbox, Discard: discard}); err != nil {
		return err
	}
	return n.announcer.leave(ctx, relay)
}

// Return has a mailbox that this server has left take mail again. It does nothing if the
// mailbox takes mail. A *wire.Error of 507 says that there is no room for it any more.
func (n *Node) Return(ctx context.Context, relay spec.ServerName) error {
	state, err := n.caller.Mailbox(ctx, relay)
	if err != nil || state.State != wire.StateLeft {
		return err
	}
	return n.caller.Return(ctx, relay, wire.Return{After: state.Mailbox})
}

func (p *policies) set(ctx context.Context, want MailboxPolicy) error {
	if !p.caller.isWhole() {
		return fmt.Errorf("client: policy: %w", errNeedsTransport)
	}
	full := wire.MailboxPolicy{Allow: want.Allow, Deny: want.Deny, Strangers: want.Strangers}
	if err := full.CheckContent(); err != nil {
		return fmt.Errorf("client: policy: %w", err)
	}
	value, err := json.Marshal(want)
	if err != nil {
		return fmt.Errorf("client: policy: %w", err)
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	if err := p.notes.SetNotes(ctx, []store.Note{{Key: policyNote, Value: value}}); err != nil {
		return fmt.Errorf("client: policy: %w", err)
	}
	p.mu.Lock()
	p.want = &want
	p.mu.Unlock()
	p.wake()
	return nil
}

// wake has all relays told at once that don't have the policy.
func (p *policies) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
}

// wanted returns the policy, and a channel that is closed when there is another, or it
// is to be tried again at once.
func (p *policies) wanted() (want *MailboxPolicy, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.want, p.changed
}

// run has the relays have the policy until ctx ends.
func (p *policies) run(ctx context.Context) {
	_ = followRelays(ctx, p.peers, p.caller.config.Identity.ServerName, p.follow) // the error is the context's
}

// follow has one relay have the policy until ctx ends.
func (p *policies) follow(ctx context.Context, relay spec.ServerName) {
	failures := 0
	for before := (*MailboxPolicy)(nil); ctx.Err() == nil; {
		want, changed := p.wanted()
		if want != before {
			failures, before = 0, want
		}
		var again <-chan time.Time
		if want != nil {
			wait := p.agree(ctx, relay, want, &failures)
			again = time.After(wait)
		}
		select {
		case <-again:
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// agree tells one relay, unless it has the policy, and returns when to look again.
func (p *policies) agree(ctx context.Context, relay spec.ServerName, want *MailboxPolicy, failures *int) time.Duration {
	if rest := p.agreedOn(relay, want); rest > 0 {
		return rest
	}
	err := p.caller.agree(ctx, relay, *want)
	if err != nil && !isUnknownThere(err) {
		*failures++
		backoff := disagreed
		if hasStatus(err, http.StatusForbidden) {
			backoff = forbidden
		}
		wait := backoff.after(*failures, retryAfter(err))
		p.logger.Debug("client: a relay hasn't taken the policy", "relay", relay, "error", err, "wait", wait)
		return wait
	}
	*failures = 0
	p.mu.Lock()
	defer p.mu.Unlock()
	makeRoom(p.agreed, maxContacts)
	p.agreed[relay] = agreement{want, time.Now()}
	return agreedFor
}

// agreedOn is for how long a relay needn't be asked about a policy.
func (p *policies) agreedOn(relay spec.ServerName, want *MailboxPolicy) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	have := p.agreed[relay]
	if have.on != want {
		return 0
	}
	return agreedFor - time.Since(have.at)
}
