package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

const (
	// A step looks at about this many entries and mailboxes together; stepEntry bytes
	// that are read count as another one.
	stepLooks = 4096
	stepEntry = 8 << 10

	// listPage is how many entries are looked at at a time.
	listPage = 512

	// namesPage is how many mailboxes are found at a time.
	namesPage = 64
)

// PurgeAll does all steps of a purge, and returns the sum. It calls each, if that isn't
// nil, after every step with the sum so far.
func PurgeAll(ctx context.Context, o Operator, p Purge, each func(Purged)) (sum Purged, err error) {
	for {
		step, err := o.Purge(ctx, p)
		if err != nil {
			return sum, err
		}
		sum.Entries, sum.Bytes, sum.Next = sum.Entries+step.Entries, sum.Bytes+step.Bytes, step.Next
		if each != nil {
			each(sum)
		}
		if step.Next == nil {
			return sum, nil
		}
		p.From = *step.Next
	}
}

// VerifyAll does all steps of reading everything, and returns the sum, with up to MaxPage
// damaged mailboxes. It calls each, if that isn't nil, after every step with that step.
func VerifyAll(ctx context.Context, o Operator, each func(Verified)) (sum Verified, err error) {
	for from := (Position{}); ; from = *sum.Next {
		step, err := o.Verify(ctx, from)
		if err != nil {
			return sum, err
		}
		sum.Mailboxes, sum.Entries, sum.Bytes = sum.Mailboxes+step.Mailboxes, sum.Entries+step.Entries, sum.Bytes+step.Bytes
		sum.Damaged = append(sum.Damaged, step.Damaged[:min(len(step.Damaged), MaxPage-len(sum.Damaged))]...)
		if each != nil {
			each(*step)
		}
		if sum.Next = step.Next; sum.Next == nil {
			return sum, nil
		}
	}
}

// A look looks at some entries of a mailbox after an ID. It returns the last ID that it
// has seen, or that ID at the end of the mailbox, and how many looks that cost.
type look func(ctx context.Context, at Position) (last int64, cost int, err error)

// walk looks at mailboxes from a position on, until it has looked enough or has come to
// the end, and returns where to go on. They are the mailbox only, if that is named, or
// those of servers that have mail from an origin, if that is named.
func (d *Desk) walk(ctx context.Context, only, origin spec.ServerName, at Position, look look) (next *Position, err error) {
	names := &names{desk: d, only: only, origin: origin}
	if at.Mailbox == "" {
		if at.Mailbox, err = names.after(ctx, ""); err != nil || at.Mailbox == "" {
			return nil, err
		}
	}
	for left := stepLooks; left > 0; left-- {
		last, cost, err := look(ctx, at)
		if err != nil {
			return nil, err
		}
		if left -= cost; last > at.After {
			at.After = last
			continue
		}
		name, err := names.after(ctx, at.Mailbox)
		if err != nil || name == "" {
			return nil, err
		}
		at = Position{Mailbox: name}
	}
	return &at, nil
}

// names are those of the mailboxes of a walk. A page costs a store hardly more than one
// name.
type names struct {
	desk         *Desk
	only, origin spec.ServerName
	page         []spec.ServerName
}

// after returns the next name; it is empty if there is none.
func (n *names) after(ctx context.Context, last spec.ServerName) (spec.ServerName, error) {
	if n.only != "" {
		if last == "" {
			return n.only, nil
		}
		return "", nil
	}
	if len(n.page) == 0 {
		var err error
		if n.page, err = n.desk.names(ctx, n.origin, last, namesPage); err != nil || len(n.page) == 0 {
			return "", err
		}
	}
	name := n.page[0]
	n.page = n.page[1:]
	return name, nil
}

// Purge implements Operator. A crash or an error leaves some of the step's mail removed,
// with the counts right.
func (d *Desk) Purge(ctx context.Context, p Purge) (*Purged, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	purged := &Purged{}
	next, err := d.walk(ctx, p.Mailbox, p.Origin, p.From, func(ctx context.Context, at Position) (int64, int, error) {
		return d.purgeSome(ctx, &p, at, purged)
	})
	if err != nil {
		return nil, err
	}
	if purged.Next = next; !p.DryRun {
		d.senders.forget(ctx)
		d.config.Logger.Info("admin: purged", "mailbox", p.Mailbox, "origin", p.Origin, "expires_within_ms", p.ExpiresMS,
			"entries", purged.Entries, "bytes", purged.Bytes, "done", next == nil)
	}
	return purged, nil
}

func (p *Purge) check() error {
	switch {
	case p.Mailbox == "" && p.Origin == "" && p.ExpiresMS == 0:
		return wire.BadRequest(spec.ErrorInvalidParam, "which mail is to be purged must be said")
	case p.UpTo < 0, p.UpTo > 0 && p.Mailbox == "":
		return wire.BadRequest(spec.ErrorInvalidParam, "an ID is one of a mailbox, which must be named")
	case p.ExpiresMS < 0:
		return wire.BadRequest(spec.ErrorInvalidParam, "the time within which mail expires is negative")
	case p.Mailbox != "" && p.From.Mailbox != "" && p.From.Mailbox != p.Mailbox, p.Mailbox == "" && store.IsPrivate(p.From.Mailbox):
		return wire.BadRequest(spec.ErrorInvalidParam, "this isn't where a step has ended")
	}
	if p.Mailbox == "" {
		return nil
	}
	return checkMailbox(p.Mailbox)
}

func (p *Purge) takes(l *store.Listed) bool {
	return (p.Origin == "" || l.Origin == p.Origin) && (p.UpTo == 0 || l.ID <= p.UpTo) &&
		(p.ExpiresMS == 0 || l.Lifetime > 0 && l.Lifetime.Milliseconds() <= p.ExpiresMS)
}

func (d *Desk) purgeSome(ctx context.Context, p *Purge, at Position, purged *Purged) (last int64, cost int, err error) {
	listed, err := d.managed.List(ctx, at.Mailbox, at.After, listPage)
	if err != nil || len(listed) == 0 {
		return at.After, 0, wrap("listing mail to purge", err)
	}
	var ids []int64
	bytes := int64(0)
	for _, l := range listed {
		if p.takes(&l) {
			ids, bytes = append(ids, l.ID), bytes+l.Size
		}
	}
	removed := len(ids)
	if removed > 0 && !p.DryRun {
		if removed, err = d.managed.Remove(ctx, at.Mailbox, ids); err != nil {
			return 0, 0, wrap("purging mail", err)
		}
	}
	purged.Entries += int64(removed)
	if removed > 0 {
		purged.Bytes += bytes
	}
	last = listed[len(listed)-1].ID
	if p.UpTo > 0 && last >= p.UpTo {
		last = at.After // the rest is none of it
	}
	return last, len(listed), nil
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("admin: %s: %w", doing, err)
}

// Verify implements Operator.
func (d *Desk) Verify(ctx context.Context, from Position) (*Verified, error) {
	if store.IsPrivate(from.Mailbox) {
		return nil, wire.BadRequest(spec.ErrorInvalidParam, "this isn't where a step has ended")
	}
	verified := &Verified{}
	next, err := d.walk(ctx, "", "", from, func(ctx context.Context, at Position) (int64, int, error) {
		return d.verifySome(ctx, at, verified)
	})
	if err != nil {
		return nil, err
	}
	verified.Next = next
	return verified, nil
}

func (d *Desk) verifySome(ctx context.Context, at Position, verified *Verified) (last int64, cost int, err error) {
	entries, err := d.config.Store.Next(ctx, at.Mailbox, at.After, listPage, maxBodies)
	if ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
		return 0, 0, wrap("reading mail", err)
	}
	if err != nil {
		return at.After, 0, d.finish(ctx, at.Mailbox, err, verified)
	}
	bytes := int64(0)
	for i := range entries {
		bytes += entries[i].Size()
	}
	verified.Entries += int64(len(entries))
	verified.Bytes += bytes
	return entries[len(entries)-1].ID, len(entries) + int(bytes/stepEntry), nil
}

// finish looks whether something in a mailbox couldn't be read. ErrEmpty is its end.
func (d *Desk) finish(ctx context.Context, name spec.ServerName, end error, verified *Verified) error {
	held, err := d.held(ctx, name)
	if err != nil {
		return err
	}
	damaged := Damaged{Mailbox: name, SetAside: held.SetAside}
	if !errors.Is(end, store.ErrEmpty) {
		damaged.Error = end.Error()
	}
	if damaged.SetAside > 0 || damaged.Error != "" {
		verified.Damaged = append(verified.Damaged, damaged)
	}
	verified.Mailboxes++
	return nil
}
