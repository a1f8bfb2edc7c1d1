package policy

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/internal/table"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// MaxInviteUses bounds the servers that one invite lets in.
const MaxInviteUses = 1000

// MinInviteKey is the least that a key for invites has, in bytes.
const MinInviteKey = 16

// DefaultInvitedPromise is the default of InviteConfig.Promise.
var DefaultInvitedPromise = Size{Entries: 20_000, Bytes: 64 << 20}

// DefaultInvitedPart is the default of InviteConfig.PromisedPart.
const DefaultInvitedPart = 0.75

// DefaultInviteClaims is the default of InviteConfig.Claims.
var DefaultInviteClaims = Rate{1. / 60, 20}

// InviteConfig is the configuration of a relay in the mode Invite. Store, ServerName
// and Key are required.
type InviteConfig struct {
	// Store is the relay's, which must have the ability store.Notes.
	Store store.Store

	// ServerName is the relay's, for which servers make their claims.
	ServerName spec.ServerName

	// Key is the operator's secret, at least MinInviteKey random bytes: all invites
	// come from it. With another key, invites that aren't used yet are void.
	Key []byte

	// Promise is the room that a claimed mailbox has in any case, and PromisedPart the
	// part of the whole store that may be promised. Claimed mailboxes may use the rest
	// over their promise.
	Promise      Size
	PromisedPart float64

	// Claims is the share of one address of attempts to claim with a right invite. See
	// OpenConfig.Wide.
	Claims Rate
	Wide   int
}

// Invite is the mode of a relay that keeps mail for servers that have claimed their
// mailbox with an invite of the operator's, and for no others.
type Invite struct {
	config   InviteConfig
	division division
	claims   *claims
	tries    *table.Addresses[bucket]
}

var _ interface {
	Policy
	Inviting
} = (*Invite)(nil)

// NewInvite makes an Invite.
func NewInvite(config InviteConfig) (*Invite, error) {
	if len(config.Key) < MinInviteKey {
		return nil, fmt.Errorf("policy: the key for invites has less than %d bytes", MinInviteKey)
	}
	c, err := newClaims(config.Store, "relay/member/")
	if err != nil {
		return nil, err
	}
	config.Promise = config.Promise.or(DefaultInvitedPromise)
	defaults.Set(&config.PromisedPart, DefaultInvitedPart)
	defaults.Set(&config.Claims, DefaultInviteClaims)
	defaults.Set(&config.Wide, DefaultWide)
	return &Invite{
		config: config, claims: c, division: division{promise: config.Promise, promised: config.PromisedPart},
		tries: table.NewAddresses(DefaultParties, config.Wide, func(times int) *bucket {
			b := newBucket(config.Claims, times)
			return &b
		}),
	}, nil
}

// Acts implements Acting.
func (i *Invite) Acts(ctx context.Context, server spec.ServerName) (bool, error) {
	return i.claims.has(ctx, server)
}

// Describe implements Described.
func (*Invite) Describe(info *wire.RelayInfo) {
	info.Mode = wire.Invite
}

// Admit implements Policy.
func (i *Invite) Admit(ctx context.Context, r *Request) (err error) {
	switch {
	case r.Stage == Claimed && r.Endpoint == wire.SendRelay && !r.Local:
		claimed, err := i.claims.has(ctx, r.Destination)
		if err == nil && !claimed {
			return wire.Forbidden("this relay does not act for " + string(r.Destination))
		}
		return err
	case r.Stage != Signed:
		return nil
	case r.Endpoint == wire.RelayTxn && r.Origin == r.Destination:
		return i.fetch(ctx, r)
	case r.Endpoint == wire.Mailbox, r.Endpoint == wire.Policy, r.Endpoint == wire.Leave:
		r.Member, err = i.claims.has(ctx, r.Origin)
		return err
	case r.Endpoint == wire.SendRelay:
		_, r.Member = i.claims.asked(r.Origin)
		if !r.Local {
			r.Room.promise(i.config.Promise, i.division.of(r.Room.Limits))
		}
	}
	return nil
}

// fetch lets an owner fetch the mail that is there.
func (i *Invite) fetch(ctx context.Context, r *Request) (err error) {
	if r.Member, err = i.claims.has(ctx, r.Origin); err != nil {
		return err
	}
	if r.Member {
		return i.claims.renew(ctx, r.Origin)
	}
	if r.left {
		return nil // it can read the mail that is there
	}
	usage, err := i.config.Store.Usage(ctx, r.Origin)
	if err != nil {
		return fmt.Errorf("policy: usage of a mailbox: %w", err)
	}
	if usage.Entries > 0 { // from another time
		return nil
	}
	return wire.Forbidden("this relay acts for servers that claim their mailbox with an invite")
}

// Claim implements Inviting. A server that has claimed its mailbox already uses up
// nothing. Of several relays that share a store, each lets in as many as the invite
// says, if they are asked at the same moment.
func (i *Invite) Claim(ctx context.Context, r *Request, claim wire.Claim) error {
	uses, err := i.check(r.Origin, claim)
	if err != nil {
		return err // which costs no attempt: others at the address may have a right one
	}
	use := func() ([]store.Note, error) { return i.use(ctx, r, claim.Invite, uses) }
	if r.left { // it may be claimed still, but the invite must be a new one
		if _, err := use(); err != nil {
			return err
		}
		if err := i.claims.remove(ctx, r.Origin); err != nil {
			return err
		}
	}
	return i.add(ctx, r, use)
}

// add claims a mailbox, if the address has an attempt left and there is room.
func (i *Invite) add(ctx context.Context, r *Request, also func() ([]store.Note, error)) error {
	if err := i.try(r.Address); err != nil {
		return err
	}
	err := i.claims.add(ctx, r.Origin, i.division.of(r.Room.Limits).claims, also)
	if errors.Is(err, errBooked) {
		return allBooked()
	}
	return err
}

// allBooked is the answer to a claim where all room is promised.
func allBooked() error {
	return &wire.Error{
		Status: http.StatusInsufficientStorage, Code: wire.ErrorResourceLimitExceeded,
		Message: "all room of this relay is promised to others",
	}
}

// leave implements claiming.
func (i *Invite) leave(ctx context.Context, server spec.ServerName) error {
	return i.claims.remove(ctx, server)
}

// comeBack implements claiming. It takes no invite.
func (i *Invite) comeBack(ctx context.Context, r *Request) error {
	return i.add(ctx, r, func() ([]store.Note, error) { return nil, nil })
}

// try counts an attempt with a right invite.
func (i *Invite) try(from netip.Addr) error {
	parties := i.tries.Of(from)
	for _, tries := range parties {
		if wait := tries.wait(time.Now()); wait > 0 {
			return overShare("this address has tried too many invites", wait)
		}
	}
	for _, tries := range parties {
		tries.take(time.Now(), 1)
	}
	return nil
}

var errInvite = wire.Forbidden("the invite is not one of this relay, or not for this server")

// check checks an invite, and returns how many servers it lets in.
func (i *Invite) check(server spec.ServerName, claim wire.Claim) (uses int, err error) {
	want := wire.InviteMAC(secretOf(i.config.Key, claim.Invite), i.config.ServerName, server)
	if !hmac.Equal([]byte(want), []byte(claim.MAC)) {
		return 0, errInvite
	}
	uses, until, err := readInviteID(claim.Invite)
	if err != nil {
		return 0, errInvite
	}
	if !time.Now().Before(until) {
		return 0, wire.Forbidden("the invite is no longer valid")
	}
	return uses, nil
}

// use returns the note that says which servers have used an invite. A server that has
// left its mailbox needs a new one: anybody may have recorded how it used the old.
func (i *Invite) use(ctx context.Context, r *Request, invite string, uses int) ([]store.Note, error) {
	key, server := "relay/invite/"+invite, r.Origin
	value, err := notebook.Read(ctx, i.claims.notes, key)
	if err != nil {
		return nil, fmt.Errorf("policy: reading who used an invite: %w", err)
	}
	var used []spec.ServerName
	if value != nil {
		if err := json.Unmarshal(value, &used); err != nil {
			return nil, fmt.Errorf("policy: the note of the invite %s: %w", invite, err)
		}
	}
	if slices.Contains(used, server) {
		if r.left {
			return nil, wire.Forbidden("this server has used the invite already, and left its mailbox")
		}
		return nil, nil
	}
	if len(used) >= uses {
		return nil, wire.Forbidden("the invite was used up")
	}
	value, err = json.Marshal(append(used, server))
	if err != nil {
		return nil, fmt.Errorf("policy: the note of the invite %s: %w", invite, err)
	}
	return []store.Note{{Key: key, Value: value}}, nil
}

// NewInviteText makes an invite, which lets that many servers claim their mailboxes
// until the end of a day (UTC), which mustn't be over. It is written down nowhere. Everybody that has it can
// use it: give it over a way that others can't read.
func NewInviteText(key []byte, uses int, until time.Time) (string, error) {
	if len(key) < MinInviteKey {
		return "", fmt.Errorf("policy: the key for invites has less than %d bytes", MinInviteKey)
	}
	if uses < 1 || uses > MaxInviteUses {
		return "", fmt.Errorf("policy: an invite is for 1 to %d servers", MaxInviteUses)
	}
	if day := until.UTC().Truncate(24 * time.Hour); !time.Now().Before(day.AddDate(0, 0, 1)) {
		return "", fmt.Errorf("policy: an invite until %s would be good for nobody: that day is over", day.Format(time.DateOnly))
	}
	id := fmt.Sprintf("%d-%s-%s", uses, until.UTC().Format(inviteDay), strings.ToLower(rand.Text()[:12]))
	return id + "." + secretOf(key, id), nil
}

const inviteDay = "20060102"

// secretOf is the secret of an invite.
func secretOf(key []byte, id string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("org.matrixrelay.invite\n" + id))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// readInviteID reads the name of an invite.
func readInviteID(id string) (uses int, until time.Time, err error) {
	parts := strings.Split(id, "-")
	if len(parts) != 3 {
		return 0, time.Time{}, errors.New("policy: not an invite")
	}
	uses, err = strconv.Atoi(parts[0])
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("policy: not an invite: %w", err)
	}
	day, err := time.Parse(inviteDay, parts[1])
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("policy: not an invite: %w", err)
	}
	return uses, day.AddDate(0, 0, 1), nil
}
