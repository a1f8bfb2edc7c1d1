package policy

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/internal/stripes"
	"github.com/matrixrelay/relay/internal/turns"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// DefaultOwned is the default of OwnersConfig.Most.
const DefaultOwned = 20_000

// OwnersConfig is the configuration of Owners. Store is required.
type OwnersConfig struct {
	// Store is the relay's, which must have the ability store.Notes: there the owners'
	// policies are written down.
	Store store.Store

	// Mode decides which servers have a mailbox: those that it calls a Member. Nil: all.
	Mode Policy

	// Most bounds how many mailboxes are looked after, each of which may take about
	// wire.MaxPolicyBytes on the disk. Zero: DefaultOwned.
	Most int
}

// Owners is a mode in which the owner of a mailbox has a say, too: whose mail always has
// room in it, whose is refused, and how much room is there for all others together
// (wire.MailboxPolicy). It asks another mode first. Until an owner makes a request,
// nothing is different. Where several relays share a store, the others hear of a change within
// ten seconds.
//
// The mail of a server that the owner doesn't name is taken only while the whole
// mailbox holds less than the owner lets strangers have. So strangers never get more than
// that, under however many names, and all the other room is for those that the owner
// allows; but their mail may keep strangers out for as long as it waits.
type Owners struct {
	config OwnersConfig
	notes  store.Notes
	clock  func(context.Context) (time.Duration, error)
	known  *boxes

	// The changes of a mailbox are made one after the other, those of different ones
	// together.
	changing stripes.Locks

	counting turns.Turn
	count    int       // of mailboxes that are looked after, if it was counted
	counted  time.Time // zero: never
}

var _ interface {
	Policy
	Inviting
	Described
	Owning
} = (*Owners)(nil)

// NewOwners makes Owners.
func NewOwners(config OwnersConfig) (*Owners, error) {
	notes, ok := config.Store.(store.Notes)
	if !ok {
		return nil, errors.New("policy: the store keeps no notes, so owners' policies would be forgotten")
	}
	defaults.Set(&config.Most, DefaultOwned)
	return &Owners{config: config, notes: notes, clock: notebook.Clock(config.Store), known: newBoxes(), counting: turns.New()}, nil
}

// Owners implements Owning.
func (o *Owners) Owners() *Owners { return o }

// Describe implements Described.
func (o *Owners) Describe(info *wire.RelayInfo) {
	if described, ok := o.config.Mode.(Described); ok {
		described.Describe(info)
	}
	info.Extensions = append(slices.Clone(info.Extensions), wire.PolicyExtension)
}

// Admit implements Policy.
func (o *Owners) Admit(ctx context.Context, r *Request) error {
	if r.Stage == Signed && r.Endpoint != wire.SendRelay {
		found, err := o.box(ctx, r.Origin)
		if err != nil {
			return err
		}
		r.left = found.Left != nil
	}
	if o.config.Mode != nil {
		if err := o.config.Mode.Admit(ctx, r); err != nil {
			return err
		}
	}
	if r.left && r.Member && r.Endpoint == wire.RelayTxn {
		return o.fetched(ctx, r)
	}
	if r.Endpoint != wire.SendRelay || r.Local || r.Stage != Signed && !r.PassedOn {
		return nil
	}
	found, err := o.box(ctx, r.Destination)
	if err != nil {
		return err
	}
	if r.PassedOn {
		r.Room = r.whole // it was that for the server that passes it on
	}
	r.whole = r.Room
	return found.admit(r)
}

// admit gives mail the room that the owner of a mailbox leaves for its origin.
func (b *box) admit(r *Request) error {
	p := b.Policy
	switch {
	case b.Left != nil:
		return wire.Forbidden(string(r.Destination) + " has left this relay")
	case p == nil:
		return nil
	case has(p.Deny, r.Origin):
		return wire.Forbidden(string(r.Destination) + " takes no mail of " + string(r.Origin))
	case p.Strangers == nil || has(p.Allow, r.Origin):
		return nil
	}
	size := Size{Entries: p.Strangers.Entries, Bytes: p.Strangers.Bytes}
	if min(size.Entries, size.Bytes) == 0 {
		size = Size{Entries: 1, Bytes: 1} // which no mail fits
	}
	r.Room.shrinkTo(size)
	if r.Room.Spare != nil {
		spare := Room{Limits: *r.Room.Spare}
		spare.shrinkTo(size)
		r.Room.Spare = &spare.Limits
	}
	return nil
}

// has looks a name up in a list of a box.
func has(list []spec.ServerName, name spec.ServerName) bool {
	_, ok := slices.BinarySearch(list, name)
	return ok
}
