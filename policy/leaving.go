package policy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// claiming is a mode in which mailboxes are claimed. Both may be repeated.
type claiming interface {
	// leave gives up a server's claim.
	leave(ctx context.Context, server spec.ServerName) error

	// comeBack claims the mailbox of r.Origin anew, if there is room.
	comeBack(ctx context.Context, r *Request) error
}

// state is the state of a mailbox, as it is told.
func (b *box) state() string {
	if b.Left != nil {
		return wire.StateLeft
	}
	return wire.StateOpen
}

// Leave has the mailbox of r.Origin, which has signed it, take no more mail. The mail
// that is there can be fetched, unless it is to be discarded. Once there is none, room
// that was promised to the mailbox is free for others. It returns nil once that is on the
// disk; to leave again is harmless. The error is like that of Policy.Admit.
func (o *Owners) Leave(ctx context.Context, r *Request, leaving wire.Leaving) error {
	if err := o.closeBox(ctx, r.Origin, leaving.Mailbox); err != nil {
		return err
	}
	if leaving.Discard {
		if err := o.discard(ctx, r.Origin); err != nil {
			return err
		}
	}
	_, err := o.giveUp(ctx, r.Origin)
	return err
}

// fetched frees the room of a mailbox that was left, once its owner has fetched all. A
// store that has to be reopened still hands mail out, so it is no error there.
func (o *Owners) fetched(ctx context.Context, r *Request) error {
	given, err := o.giveUp(ctx, r.Origin)
	r.Member = !given
	if errors.Is(err, store.ErrReopen) {
		return nil
	}
	return err
}

// closeBox writes down that a mailbox was left.
func (o *Owners) closeBox(ctx context.Context, server spec.ServerName, name string) error {
	unlock, err := o.changing.Take(ctx, server)
	if err != nil {
		return err
	}
	defer unlock()
	b, err := o.read(ctx, server)
	if err != nil {
		return err
	}
	if name != b.Mailbox {
		return errOtherMailbox
	}
	if b.Left != nil {
		return nil
	}
	now, err := o.clock(ctx)
	if err != nil {
		return fmt.Errorf("policy: the store's clock: %w", err)
	}
	left, at := *b, int64(now/time.Second)
	left.Left = &at
	return o.write(ctx, server, left)
}

// giveUp gives up the claim of a mailbox that was left, if it is empty: its mail would
// else take the room of mailboxes that nobody has claimed. It reports whether it did.
func (o *Owners) giveUp(ctx context.Context, server spec.ServerName) (given bool, err error) {
	mode, ok := o.config.Mode.(claiming)
	if !ok {
		return false, nil
	}
	unlock, err := o.changing.Take(ctx, server)
	if err != nil {
		return false, err
	}
	defer unlock()
	b, err := o.read(ctx, server)
	if err != nil || b.Left == nil {
		return false, err
	}
	usage, err := o.config.Store.Usage(ctx, server)
	if err != nil {
		return false, fmt.Errorf("policy: usage of a mailbox: %w", err)
	}
	if usage.Entries > 0 {
		return false, nil
	}
	err = mode.leave(ctx, server)
	return err == nil, err
}

// discard drops the mail of a mailbox, some at a time.
func (o *Owners) discard(ctx context.Context, server spec.ServerName) error {
	const entries, bytes = 500, 1 << 20
	for {
		found, err := o.config.Store.Next(ctx, server, 0, entries, bytes)
		if errors.Is(err, store.ErrEmpty) {
			return nil
		}
		if err == nil {
			_, err = o.config.Store.Ack(ctx, server, found[len(found)-1].ID)
		}
		if err != nil {
			return fmt.Errorf("policy: discarding mail: %w", err)
		}
	}
}

// Return has a mailbox that r.Origin has left take mail again, under another name, so
// that it works once. The error is like that of Policy.Admit.
func (o *Owners) Return(ctx context.Context, r *Request, back wire.Return) error {
	unlock, err := o.changing.Take(ctx, r.Origin)
	if err != nil {
		return err
	}
	defer unlock()
	b, err := o.read(ctx, r.Origin)
	if err != nil {
		return err
	}
	if b.Left == nil || back.After != b.Mailbox {
		return errOtherMailbox
	}
	if mode, ok := o.config.Mode.(claiming); ok {
		if err := mode.comeBack(ctx, r); err != nil {
			return err
		}
	}
	return o.reopen(ctx, r.Origin, b)
}

// reopen gives a mailbox that was left a new name. The owner's policy stays.
func (o *Owners) reopen(ctx context.Context, server spec.ServerName, b *box) error {
	return o.write(ctx, server, box{Mailbox: rand.Text(), Policy: b.Policy})
}

// Claim implements Inviting, if the mode does. A mailbox that was left takes mail again.
func (o *Owners) Claim(ctx context.Context, r *Request, claim wire.Claim) error {
	inviting, ok := o.config.Mode.(Inviting)
	if !ok {
		return wire.Unrecognized()
	}
	unlock, err := o.changing.Take(ctx, r.Origin)
	if err != nil {
		return err
	}
	defer unlock()
	b, err := o.read(ctx, r.Origin)
	if err != nil {
		return err
	}
	r.left = b.Left != nil
	if err := inviting.Claim(ctx, r, claim); err != nil || !r.left {
		return err
	}
	return o.reopen(ctx, r.Origin, b)
}
