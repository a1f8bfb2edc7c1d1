package policy

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/internal/table"
	"github.com/matrixrelay/relay/internal/turns"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// Defaults of OpenConfig.
const (
	DefaultPromisedPart      = 0.5
	DefaultUnclaimedPart     = 1. / 16
	DefaultUnclaimedLifetime = 7 * 24 * time.Hour
	DefaultUnclaimedBoxes    = 10_000
)

// More defaults of OpenConfig.
var (
	DefaultPromise      = Size{Entries: 2_000, Bytes: 4 << 20}
	DefaultUnclaimedBox = Size{Entries: 200, Bytes: 1 << 20}

	DefaultClaims         = Rate{1. / 3600, 10}
	DefaultNewBoxes       = Rate{1. / 600, 200}
	DefaultUnclaimedBytes = Rate{256, 32 << 20}
)

// OpenConfig is the configuration of a relay in the mode Open. Store is required.
type OpenConfig struct {
	// Store is the relay's, which must have the ability store.Notes: there it is
	// written down whose mailbox is claimed.
	Store store.Store

	// Promise is the room that a claimed mailbox has in any case, and PromisedPart the
	// part of the whole store that may be promised: when all of it is, there are no new
	// claims. UnclaimedPart is the part that all unclaimed mailboxes share. Claimed
	// mailboxes may use the rest over their promise, up to the limits of any mailbox,
	// as long as the store holds no more than that rest.
	Promise                     Size
	PromisedPart, UnclaimedPart float64

	// UnclaimedBox is the most that one unclaimed mailbox holds, UnclaimedBoxes how many
	// of them there may be, and UnclaimedLifetime how long their mail lives at most.
	UnclaimedBox      Size
	UnclaimedBoxes    int
	UnclaimedLifetime time.Duration

	// Claims, NewBoxes and UnclaimedBytes are the share of one address: of claims, of
	// unclaimed mailboxes that get their first mail, and of mail for unclaimed ones. A /48
	// of IPv6, an overlay network and all that have no IP address have Wide times that;
	// zero: DefaultWide. A Member has a share of the latter two, for itself, on its own
	// connections (see Request.Known).
	Claims, NewBoxes, UnclaimedBytes Rate
	Wide                             int
}

func (c OpenConfig) withDefaults() OpenConfig {
	c.Promise = c.Promise.or(DefaultPromise)
	c.UnclaimedBox = c.UnclaimedBox.or(DefaultUnclaimedBox)
	defaults.Set(&c.PromisedPart, DefaultPromisedPart)
	defaults.Set(&c.UnclaimedPart, DefaultUnclaimedPart)
	defaults.Set(&c.UnclaimedBoxes, DefaultUnclaimedBoxes)
	defaults.Set(&c.UnclaimedLifetime, DefaultUnclaimedLifetime)
	defaults.Set(&c.Claims, DefaultClaims)
	defaults.Set(&c.NewBoxes, DefaultNewBoxes)
	defaults.Set(&c.UnclaimedBytes, DefaultUnclaimedBytes)
	defaults.Set(&c.Wide, DefaultWide)
	return c
}

func (c OpenConfig) division() division {
	boxes := int64(c.UnclaimedBoxes)
	return division{
		promise: c.Promise, promised: c.PromisedPart, unclaimed: c.UnclaimedPart,
		without: Size{Entries: boxes * c.UnclaimedBox.Entries, Bytes: boxes * c.UnclaimedBox.Bytes},
	}
}

// Open is the mode of a relay that anybody may use. A mailbox is unclaimed until its
// owner has asked here for its mail: then it is claimed, and has room that nobody else
// can use up. All unclaimed ones together have a small part of the store, each of them
// a small one, and their mail lives shorter: anybody can make up names and leave mail
// for them. Where all room is promised, or an address has claimed its share, owners
// can still fetch the mail that is there.
//
// Claims are kept in the store's notes. One stays until its owner hasn't asked for
// 180 days and another wants its place.
type Open struct {
	config    OpenConfig
	division  division
	claims    *claims
	unclaimed *unclaimed
	comers    *table.Addresses[comer]
	newComer  func(times int) *comer

	mu    sync.Mutex
	known *table.Table[spec.ServerName, *comer]   // servers on their own connections
	boxes *table.Table[spec.ServerName, struct{}] // unclaimed ones that mail was left in
}

var _ Policy = (*Open)(nil)

// A comer has the buckets of an address in the mode Open.
type comer struct{ claims, boxes, bytes bucket }

// NewOpen makes an Open.
func NewOpen(config OpenConfig) (*Open, error) {
	c, err := newClaims(config.Store, "relay/claim/")
	if err != nil {
		return nil, err
	}
	config = config.withDefaults()
	newComer := func(times int) *comer {
		return &comer{newBucket(config.Claims, times), newBucket(config.NewBoxes, times), newBucket(config.UnclaimedBytes, times)}
	}
	return &Open{
		config: config, claims: c, division: config.division(), unclaimed: &unclaimed{store: config.Store, claims: c, counting: turns.New()},
		comers:   table.NewAddresses(DefaultParties, config.Wide, newComer),
		newComer: newComer,
		known:    table.New[spec.ServerName, *comer](DefaultParties),
		boxes:    table.New[spec.ServerName, struct{}](config.UnclaimedBoxes),
	}, nil
}

// Describe implements Described.
func (o *Open) Describe(info *wire.RelayInfo) {
	info.Mode = wire.Open
	info.Unclaimed = &wire.Unclaimed{
		MaxEntries: o.config.UnclaimedBox.Entries, MaxBytes: o.config.UnclaimedBox.Bytes,
		LifetimeMS: o.config.UnclaimedLifetime.Milliseconds(),
	}
}

// Acts implements Acting: mail is kept for good for owners that have asked for it.
func (o *Open) Acts(ctx context.Context, server spec.ServerName) (bool, error) {
	return o.claims.has(ctx, server)
}

// Admit implements Policy.
func (o *Open) Admit(ctx context.Context, r *Request) (err error) {
	if r.Stage != Signed {
		return nil
	}
	switch r.Endpoint {
	case wire.RelayTxn:
		return o.fetch(ctx, r)
	case wire.Mailbox, wire.Policy, wire.Leave:
		r.Member, err = o.claims.has(ctx, r.Origin)
		return err
	case wire.SendRelay:
		_, r.Member = o.claims.asked(r.Origin)
		if !r.Local {
			return o.admitMail(ctx, r)
		}
	}
	return nil
}

// fetch claims the mailbox of an owner that asks, if there is room.
func (o *Open) fetch(ctx context.Context, r *Request) (err error) {
	if r.Origin != r.Destination {
		return nil // it is refused anyway
	}
	if r.Member, err = o.claims.has(ctx, r.Origin); err != nil {
		return err
	}
	if r.Member {
		return o.claims.renew(ctx, r.Origin)
	}
	if r.left {
		return nil // it can read the mail that is there
	}
	err = o.claim(ctx, r)
	if errors.Is(err, errBooked) || errors.Is(err, errClaimed) || errors.Is(err, store.ErrReopen) {
		return nil // it can be read, also by those that can't claim it
	}
	if err != nil {
		return err
	}
	r.Member = true
	return nil
}

// claim claims the mailbox of an owner that asks.
func (o *Open) claim(ctx context.Context, r *Request) error {
	comers := o.comers.Of(r.Address)
	if err := claimsLeft(comers); err != nil {
		return err // without waiting for the claims of others
	}
	most := o.division.of(r.Room.Limits).claims
	err := o.claims.add(ctx, r.Origin, most, func() ([]store.Note, error) { return nil, takeClaim(comers) })
	if err == nil {
		o.unclaimed.countAgain()
	}
	return err
}

// leave implements claiming.
func (o *Open) leave(ctx context.Context, server spec.ServerName) error {
	return o.claims.remove(ctx, server)
}

// comeBack implements claiming.
func (o *Open) comeBack(ctx context.Context, r *Request) error {
	err := o.claim(ctx, r)
	if errors.Is(err, errBooked) {
		return allBooked()
	}
	if errors.Is(err, errClaimed) {
		return overShare(errClaimed.Error(), 0)
	}
	return err
}

// errClaimed says that an address has claimed its share.
var errClaimed = errors.New("policy: this address has claimed its share of mailboxes")

// claimsLeft returns errClaimed if there is none left.
func claimsLeft(comers []*comer) error {
	for _, c := range comers {
		if c.claims.wait(time.Now()) > 0 {
			return errClaimed
		}
	}
	return nil
}

// takeClaim takes a claim if there is one left. Claims are made one at a time, so many
// that come at once have no more than those that follow each other.
func takeClaim(comers []*comer) error {
	if err := claimsLeft(comers); err != nil {
		return err
	}
	for _, c := range comers {
		c.claims.take(time.Now(), 1)
	}
	return nil
}

// admitMail says how much room there is for mail.
func (o *Open) admitMail(ctx context.Context, r *Request) error {
	claimed, err := o.claims.has(ctx, r.Destination)
	if err != nil {
		return err
	}
	parts := o.division.of(r.Room.Limits)
	if claimed {
		r.Room.promise(o.config.Promise, parts)
		return nil
	}
	comers := o.leaving(r)
	for _, c := range comers {
		if wait := c.bytes.wait(time.Now()); wait > 0 {
			return overShare("this address has left its share for servers that haven't asked for their mail here", wait)
		}
	}
	isNew, err := o.unclaimed.reserve(ctx, r, parts.unclaimed, o.config.UnclaimedBoxes)
	if err != nil {
		return err
	}
	isNew = isNew && !o.hasBox(r.Destination)
	r.WhenDone(func(used Used) {
		if used.Stored > 0 {
			o.keepBox(r.Destination)
		}
	})
	r.Room.shrinkTo(o.config.UnclaimedBox)
	r.Room.shrinkLifetime(o.config.UnclaimedLifetime)
	for _, c := range comers {
		if err := c.leave(r, isNew); err != nil {
			return err
		}
	}
	return nil
}

// leaving is the party that mail for unclaimed mailboxes is charged to: the address that
// it comes from, or the server on whose own connection it comes.
func (o *Open) leaving(r *Request) []*comer {
	if r.Known == "" {
		return o.comers.Of(r.Address)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return []*comer{o.known.Find(r.Known, func() *comer { return o.newComer(1) })}
}

// hasBox reports whether mail was left in an unclaimed mailbox before. Then it isn't new,
// though its owner may have fetched all: not all owners that ask can claim theirs.
func (o *Open) hasBox(owner spec.ServerName) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.boxes.Get(owner)
	return ok
}

func (o *Open) keepBox(owner spec.ServerName) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.boxes.Set(owner, struct{}{})
}

// leave counts mail for an unclaimed mailbox, which may be new, when it is stored.
func (c *comer) leave(r *Request, isNew bool) error {
	if wait := c.boxes.wait(time.Now()); isNew && wait > 0 {
		return overShare("this address has left mail for too many servers that haven't asked for their mail here", wait)
	}
	r.WhenDone(func(used Used) {
		if used.Stored == 0 {
			return
		}
		c.bytes.take(time.Now(), used.Stored+perTransaction)
		if isNew {
			c.boxes.take(time.Now(), 1)
		}
	})
	return nil
}

// noRoom is the answer where unclaimed mailboxes have no room left.
func noRoom(destination spec.ServerName) error {
	return &wire.Error{
		Status: http.StatusInsufficientStorage, Code: wire.ErrorResourceLimitExceeded,
		Message: "there is no room for servers that haven't asked for their mail here, such as " + string(destination),
	}
}
