package policy

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// Owning is an ability of a Policy: owners of mailboxes have a say.
type Owning interface {
	// Owners returns the part that does it, nil if there is none.
	Owners() *Owners
}

// Mailbox returns the state of the mailbox of r.Origin, which has signed the request. A
// mailbox gets its name when its owner asks first. The error is like that of
// Policy.Admit.
func (o *Owners) Mailbox(ctx context.Context, r *Request) (wire.MailboxState, error) {
	unlock, err := o.changing.Take(ctx, r.Origin)
	if err != nil {
		return wire.MailboxState{}, err
	}
	defer unlock()
	b, err := o.own(ctx, r)
	if err != nil {
		return wire.MailboxState{}, err
	}
	usage, err := o.config.Store.Usage(ctx, r.Origin)
	if err != nil {
		return wire.MailboxState{}, fmt.Errorf("policy: usage of a mailbox: %w", err)
	}
	expires, err := o.oldestExpires(ctx, r.Origin)
	if err != nil {
		return wire.MailboxState{}, err
	}
	return wire.MailboxState{
		Mailbox: b.Mailbox, State: b.state(), PolicySeq: b.policy().Seq,
		Entries: usage.Entries, Bytes: usage.Bytes, OldestExpiresMS: expires.Milliseconds(),
	}, nil
}

// oldestExpires is for how long the oldest mail will be kept, 0 if the store can't tell
// without reading it.
func (o *Owners) oldestExpires(ctx context.Context, server spec.ServerName) (time.Duration, error) {
	managed, ok := o.config.Store.(store.Managed)
	if !ok {
		return 0, nil
	}
	oldest, err := managed.List(ctx, server, 0, 1)
	if err != nil {
		return 0, fmt.Errorf("policy: the oldest mail: %w", err)
	}
	if len(oldest) == 0 {
		return 0, nil
	}
	return oldest[0].Lifetime, nil
}

// Policy returns the policy that holds for the mailbox of r.Origin, which has signed the
// request; its number is 0 if the owner has set none. The error is like that of
// Policy.Admit.
func (o *Owners) Policy(ctx context.Context, r *Request) (wire.MailboxPolicy, error) {
	unlock, err := o.changing.Take(ctx, r.Origin)
	if err != nil {
		return wire.MailboxPolicy{}, err
	}
	defer unlock()
	b, err := o.own(ctx, r)
	if err != nil {
		return wire.MailboxPolicy{}, err
	}
	return b.policy(), nil
}

// policy is the policy that holds, or an empty one.
func (b *box) policy() wire.MailboxPolicy {
	p := wire.MailboxPolicy{Allow: []spec.ServerName{}, Deny: []spec.ServerName{}}
	if b.Policy != nil {
		p = *b.Policy
	}
	p.Mailbox = b.Mailbox
	return p
}

// SetPolicy has a policy hold for the mailbox of r.Origin, which has signed it. It
// returns nil once that is on the disk; the error is like that of Policy.Admit.
func (o *Owners) SetPolicy(ctx context.Context, r *Request, p wire.MailboxPolicy) error {
	unlock, err := o.changing.Take(ctx, r.Origin)
	if err != nil {
		return err
	}
	defer unlock()
	b, err := o.own(ctx, r)
	if err != nil {
		return err
	}
	if p.Mailbox != b.Mailbox {
		return errOtherMailbox
	}
	if holds := b.policy(); p.Seq <= holds.Seq {
		return wire.PolicyHolds(holds)
	}
	p.Allow, p.Deny = sorted(p.Allow), sorted(p.Deny)
	changed := *b
	changed.Policy = &p
	return o.write(ctx, r.Origin, changed)
}

var errOtherMailbox = wire.Forbidden("the mailbox has another name by now")

// sorted returns a list in order, each once, never nil.
func sorted(list []spec.ServerName) []spec.ServerName {
	list = append([]spec.ServerName{}, list...)
	slices.Sort(list)
	return slices.Compact(list)
}

// own returns the mailbox of the server that has signed a request, and writes down that
// there is one.
func (o *Owners) own(ctx context.Context, r *Request) (*box, error) {
	b, err := o.read(ctx, r.Origin)
	if err != nil || b.Mailbox != "" {
		return b, err
	}
	if o.config.Mode != nil && !r.Member {
		return nil, wire.Forbidden("this server has claimed no mailbox here")
	}
	if err := o.makeRoom(ctx); err != nil {
		return nil, err
	}
	if err := o.write(ctx, r.Origin, box{Mailbox: rand.Text()}); err != nil {
		return nil, err
	}
	return o.read(ctx, r.Origin)
}

// makeRoom counts one more mailbox that is looked after, unless there are too many. Those
// that were left long ago make room.
func (o *Owners) makeRoom(ctx context.Context) error {
	if err := o.counting.Take(ctx); err != nil {
		return err
	}
	defer o.counting.Give()
	if o.counted.IsZero() || o.count >= o.config.Most && time.Since(o.counted) >= claimsCountedFor {
		if err := o.countAgain(ctx); err != nil {
			return err
		}
	}
	if o.count >= o.config.Most {
		return &wire.Error{
			Status: http.StatusInsufficientStorage, Code: wire.ErrorResourceLimitExceeded,
			Message: "this relay looks after as many mailboxes as it can",
		}
	}
	o.count++
	return nil
}

func (o *Owners) countAgain(ctx context.Context) error {
	now, err := o.clock(ctx)
	if err != nil {
		return fmt.Errorf("policy: the store's clock: %w", err)
	}
	count, over := 0, []store.Note(nil)
	err = notebook.Each(ctx, o.notes, ownedPrefix, func(note store.Note) error {
		var b box
		if json.Unmarshal(note.Value, &b) == nil && b.isOver(now) {
			over = append(over, store.Note{Key: note.Key})
		} else {
			count++
		}
		return nil
	})
	if err == nil {
		err = notebook.Remove(ctx, o.notes, over)
	}
	if err != nil {
		return fmt.Errorf("policy: counting owners: %w", err)
	}
	o.count, o.counted = count, time.Now()
	return nil
}
