package policy_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// owned are Owners on a store in memory.
type owned struct {
	*testing.T
	*policy.Owners
	store  store.Store
	config policy.OwnersConfig
	puts   int
}

func newOwned(t *testing.T, mode func(store.Store) policy.Policy) *owned {
	o := &owned{T: t, store: memory.New(memory.Options{})}
	t.Cleanup(func() { require.NoError(t, o.store.Close()) })
	o.config = policy.OwnersConfig{Store: o.store}
	if mode != nil {
		o.config.Mode = mode(o.store)
	}
	o.restart()
	return o
}

// restart keeps only the store, and the mode.
func (o *owned) restart() {
	var err error
	o.Owners, err = policy.NewOwners(o.config)
	require.NoError(o, err)
}

// asked is a request of an owner about its mailbox, which was admitted.
func (o *owned) asked(owner spec.ServerName, endpoint wire.Endpoint) *policy.Request {
	r, err := try{address: "198.51.100.1", endpoint: endpoint, origin: owner, destination: owner, room: room()}.begin(o.T, o.Owners)
	require.NoError(o, err)
	return r
}

func (o *owned) state(owner spec.ServerName) (wire.MailboxState, error) {
	return o.Mailbox(o.Context(), o.asked(owner, wire.Mailbox))
}

func (o *owned) name(owner spec.ServerName) string {
	state, err := o.state(owner)
	require.NoError(o, err)
	require.NotEmpty(o, state.Mailbox)
	return state.Mailbox
}

func (o *owned) set(owner spec.ServerName, p wire.MailboxPolicy) error {
	if p.Mailbox == "" {
		p.Mailbox = o.name(owner)
	}
	return o.SetPolicy(o.Context(), o.asked(owner, wire.Policy), p)
}

// put leaves mail, for which there is much room but for the owner's policy.
func (o *owned) put(from, to spec.ServerName, bytes int64) error {
	o.puts++
	c := put("192.0.2.1", from, to, bytes)
	c.room = policy.Room{Limits: store.Limits{Entries: 1000, Bytes: 50_000, OriginBytes: 50_000}}
	return c.leave(o.T, o.Owners, o.store, fmt.Sprint(o.puts))
}

func (o *owned) held(name spec.ServerName) int64 {
	usage, err := o.store.Usage(o.Context(), name)
	require.NoError(o, err)
	return usage.Bytes
}

func names(list ...spec.ServerName) []spec.ServerName { return list }

func TestOwnersPolicy(t *testing.T) {
	o := newOwned(t, nil)
	require.NoError(t, o.put("stranger", "b", 3000), "without a policy nothing is different")
	p := wire.MailboxPolicy{
		Seq: 5, Allow: names("friend", "both", "a", "a"), Deny: names("enemy", "both"), Strangers: &wire.Strangers{Entries: 100, Bytes: 5_000},
	}
	require.NoError(t, o.set("b", p))
	for range 2 {
		requireStatus(t, 403, o.put("enemy", "b", 10))
		requireStatus(t, 403, o.put("both", "b", 10))
		require.ErrorIs(t, o.put("stranger", "b", 2100), store.ErrFull)
		require.NoError(t, o.put("enemy", "c", 10), "of another owner's mailbox it says nothing")
		require.NoError(t, o.put("friend", "b", 10))
		o.restart()
	}
	require.NoError(t, o.put("friend", "b", 40_000))
	require.ErrorIs(t, o.put("stranger", "b", 1), store.ErrFull)

	holds, err := o.Policy(t.Context(), o.asked("b", wire.Policy))
	require.NoError(t, err)
	require.Equal(t, names("a", "both", "friend"), holds.Allow)
	require.Equal(t, names("both", "enemy"), holds.Deny)
	require.Equal(t, p.Strangers, holds.Strangers)
	state, err := o.state("b")
	require.NoError(t, err)
	require.Equal(t, wire.MailboxState{Mailbox: holds.Mailbox, State: wire.StateOpen, PolicySeq: 5, Entries: 4, Bytes: 43_020}, state)
}

// When mail is acknowledged, strangers have room again.
func TestStrangersRoomAfterAck(t *testing.T) {
	o := newOwned(t, nil)
	require.NoError(t, o.set("b", wire.MailboxPolicy{Seq: 1, Strangers: &wire.Strangers{Entries: 2, Bytes: 5_000}}))
	require.NoError(t, o.put("s1", "b", 10))
	require.NoError(t, o.put("s2", "b", 10))
	require.ErrorIs(t, o.put("s3", "b", 10), store.ErrFull)
	entries, err := o.store.Next(t.Context(), "b", 0, 1, 1<<20)
	require.NoError(t, err)
	_, err = o.store.Ack(t.Context(), "b", entries[0].ID)
	require.NoError(t, err)
	require.NoError(t, o.put("s3", "b", 10))
}

// Zero is no room, and not no limit.
func TestNoRoomForStrangers(t *testing.T) {
	for _, none := range []wire.Strangers{{}, {Entries: 5}, {Bytes: 5000}} {
		o := newOwned(t, nil)
		require.NoError(t, o.set("b", wire.MailboxPolicy{Seq: 1, Allow: names("friend"), Strangers: &none}))
		require.ErrorIs(t, o.put("stranger", "b", 2), store.ErrFull)
		require.NoError(t, o.put("friend", "b", 2))
	}
}

// Only a policy with a greater number for the mailbox as it is takes the place of one.
func TestOwnersPolicyGrows(t *testing.T) {
	o := newOwned(t, nil)
	require.NoError(t, o.set("b", wire.MailboxPolicy{Seq: 7, Deny: names("enemy")}))
	for _, seq := range []int64{1, 6, 7} {
		err := o.set("b", wire.MailboxPolicy{Seq: seq})
		requireStatus(t, 409, err)
		var e *wire.Error
		require.ErrorAs(t, err, &e)
		require.EqualValues(t, 7, e.Fields["policy"].(wire.MailboxPolicy).Seq)
		o.restart()
	}
	requireStatus(t, 403, o.set("b", wire.MailboxPolicy{Seq: 8, Mailbox: o.name("c")}))
	requireStatus(t, 403, o.put("enemy", "b", 10))
	require.NoError(t, o.set("b", wire.MailboxPolicy{Seq: 8}))
	require.NoError(t, o.put("enemy", "b", 10))
}

// Mail that another server passes on has the room of its origin, whatever room the
// server has that passes it on.
func TestOwnersPolicyOfMailPassedOn(t *testing.T) {
	o := newOwned(t, nil)
	require.NoError(t, o.set("b", wire.MailboxPolicy{
		Seq: 1, Allow: names("friend"), Deny: names("enemy"), Strangers: &wire.Strangers{Entries: 9, Bytes: 500},
	}))
	for _, c := range []struct {
		by, origin spec.ServerName
		bytes      int64
	}{{"relay", "friend", 50_000}, {"friend", "stranger", 500}, {"relay", "stranger", 500}, {"friend", "friend", 50_000}} {
		passed := put("192.0.2.1", c.by, "b", 10)
		passed.room = policy.Room{
			Limits: store.Limits{Bytes: 50_000, StoreBytes: 1 << 30}, Spare: &store.Limits{Bytes: 50_000, StoreBytes: 1 << 20},
		}
		r, err := passed.begin(t, o.Owners)
		require.NoError(t, err)
		r.Stage, r.PassedOn, r.Origin = policy.Claimed, true, c.origin
		require.NoError(t, o.Admit(t.Context(), r))
		require.Equal(t, c.bytes, r.Room.Limits.Bytes, c)
		require.Equal(t, c.bytes, r.Room.Spare.Bytes, c)
		require.EqualValues(t, 1<<20, r.Room.Spare.StoreBytes)
		r.Origin = "enemy"
		requireStatus(t, 403, o.Admit(t.Context(), r))
	}
}

// Strangers with ever new names leave mail, allowed servers too, and the owner
// acknowledges now and then: strangers never hold more than their part, and allowed
// mail always has the rest, also after restarts.
func TestOwnersPolicyRandom(t *testing.T) {
	seeds.Each(t, "POLICY_OWNERS_SEED", "POLICY_OWNERS_RUNS", 3, func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		o := newOwned(t, func(s store.Store) policy.Policy {
			open, err := policy.NewOpen(policy.OpenConfig{Store: s, Promise: policy.Size{Bytes: 50_000, Entries: 1000}})
			require.NoError(t, err)
			return open
		})
		require.NoError(t, get("198.51.100.1", "b").run(t, o.Owners), "it claims its mailbox")
		const part = 10_000
		require.NoError(t, o.set("b", wire.MailboxPolicy{
			Seq: 1, Allow: names("friend1", "friend2"), Strangers: &wire.Strangers{Entries: 1000, Bytes: part},
		}))
		var refused int
		for i := range 600 {
			bytes := 1 + random.Int64N(2000)
			before := o.held("b")
			switch random.IntN(20) {
			case 0:
				o.restart()
			case 1:
				o.ackSome("b", random)
			case 2, 3, 4, 5, 6, 7:
				err := o.put(spec.ServerName(fmt.Sprint("friend", 1+i%2)), "b", bytes)
				require.Equal(t, before+bytes <= 50_000, err == nil, "%v: %d of %d", err, bytes, before)
			default:
				if o.put(spec.ServerName(fmt.Sprint("name", i)), "b", bytes) != nil {
					refused++
				}
			}
			strangers, all := o.heldByStrangers("b")
			require.LessOrEqual(t, strangers, int64(part))
			require.LessOrEqual(t, all, int64(50_000))
		}
		require.NotZero(t, refused)
	})
}

// ackSome acknowledges some of the mail.
func (o *owned) ackSome(owner spec.ServerName, random *rand.Rand) {
	entries, err := o.store.Next(o.Context(), owner, 0, 1000, 1<<20)
	if err != nil {
		require.ErrorIs(o, err, store.ErrEmpty)
		return
	}
	_, err = o.store.Ack(o.Context(), owner, entries[random.IntN(len(entries))].ID)
	require.NoError(o, err)
}

func (o *owned) heldByStrangers(owner spec.ServerName) (strangers, all int64) {
	entries, err := o.store.Next(o.Context(), owner, 0, 1000, 1<<20)
	if err != nil {
		require.ErrorIs(o, err, store.ErrEmpty)
	}
	for _, e := range entries {
		all += e.Size()
		if e.Origin[0] == 'n' {
			strangers += e.Size()
		}
	}
	return strangers, all
}

// In each mode a server that has claimed a mailbox has a say in it, and nobody else.
func TestOwnersByMode(t *testing.T) {
	text := invitation(t, 1, time.Now())
	for name, mode := range map[string]func(store.Store) policy.Policy{
		"open": func(s store.Store) policy.Policy {
			open, err := policy.NewOpen(policy.OpenConfig{Store: s})
			require.NoError(t, err)
			return open
		},
		"invite": func(s store.Store) policy.Policy {
			return newInvite(t, func(c *policy.InviteConfig) { c.Store = s })
		},
		"closed": func(store.Store) policy.Policy { return policy.NewClosed("b") },
	} {
		o := newOwned(t, mode)
		switch name {
		case "open":
			require.NoError(t, get("192.0.2.1", "b").run(t, o.Owners))
		case "invite":
			made, err := wire.NewClaim(text, inviter, "b")
			require.NoError(t, err)
			require.NoError(t, o.Claim(t.Context(), o.asked("b", wire.Mailbox), made))
		}
		require.NoError(t, o.set("b", wire.MailboxPolicy{Seq: 1, Deny: names("enemy")}), name)
		requireStatus(t, 403, o.put("enemy", "b", 10))
		_, err := o.state("stranger")
		requireStatus(t, 403, err)
		_, err = o.Policy(t.Context(), o.asked("stranger", wire.Policy))
		requireStatus(t, 403, err)
		requireStatus(t, 403, o.SetPolicy(t.Context(), o.asked("stranger", wire.Policy), wire.MailboxPolicy{Seq: 1, Mailbox: "x"}))
	}
}

// Relays that share a store hear of each other's changes soon.
func TestOwnersOfAnotherRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwned(t, nil)
		require.NoError(t, o.put("enemy", "b", 10))
		other, err := policy.NewOwners(o.config)
		require.NoError(t, err)
		here := o.Owners
		o.Owners = other
		require.NoError(t, o.set("b", wire.MailboxPolicy{Seq: 1, Deny: names("enemy")}))
		o.Owners = here
		time.Sleep(11 * time.Second)
		requireStatus(t, 403, o.put("enemy", "b", 10))
		requireStatus(t, 409, o.set("b", wire.MailboxPolicy{Seq: 1}))
	})
}

// The mailboxes that are looked after are bounded, also after a restart.
func TestOwnersAreBounded(t *testing.T) {
	o := newOwned(t, nil)
	o.config.Most = 2
	o.restart()
	o.name("b")
	o.restart()
	o.name("c")
	_, err := o.state("d")
	requireStatus(t, 507, err)
	o.name("b")
	require.NoError(t, o.put("anybody", "d", 10), "mail is taken all the same")
}

// A claim that others need the place of is gone with its owner's policy.
func TestOwnersPolicyEndsWithClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwned(t, func(s store.Store) policy.Policy {
			open, err := policy.NewOpen(policy.OpenConfig{Store: s, Promise: policy.Size{Bytes: wholeStore / 2}, Claims: policy.Unlimited})
			require.NoError(t, err)
			return open
		})
		ask := func(owner spec.ServerName) bool {
			c := get("192.0.2.1", owner)
			c.room = room()
			r, err := c.begin(t, o.Owners)
			require.NoError(t, err)
			return r.Member
		}
		require.True(t, ask("b"))
		require.NoError(t, o.set("b", wire.MailboxPolicy{Seq: 9, Deny: names("enemy")}))
		before := o.name("b")
		time.Sleep(181 * 24 * time.Hour)
		require.True(t, ask("c"))
		require.False(t, ask("b"))
		_, err := o.state("b")
		requireStatus(t, 403, err)
		time.Sleep(181 * 24 * time.Hour)
		require.True(t, ask("b"))
		require.NotEqual(t, before, o.name("b"))
		requireStatus(t, 403, o.set("b", wire.MailboxPolicy{Seq: 10, Mailbox: before}))
		require.NoError(t, o.set("b", wire.MailboxPolicy{Seq: 1}))
	})
}

// The owner is told how long it has to fetch the oldest mail.
func TestOldestExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwned(t, nil)
		for i, lifetime := range []time.Duration{30 * time.Hour, 0} {
			_, err := o.store.Put(t.Context(), store.Mail{
				Destination: "b", Origin: "a", Body: []byte("{}"), Digest: store.Digest{byte(i)}, Lifetime: lifetime,
			}, store.Limits{})
			require.NoError(t, err)
		}
		time.Sleep(10 * time.Hour)
		state, err := o.state("b")
		require.NoError(t, err)
		require.EqualValues(t, 20*time.Hour/time.Millisecond, state.OldestExpiresMS)
		time.Sleep(21 * time.Hour)
		state, err = o.state("b")
		require.NoError(t, err)
		require.Zero(t, state.OldestExpiresMS, "what is left is kept for ever")
		require.EqualValues(t, 1, state.Entries)
	})
}

// Parts of a policy that are several themselves hide no ability of those after them.
func TestOwnersBesideParts(t *testing.T) {
	o := newOwned(t, nil)
	parts := policy.All(policy.All(policy.NewLimits(policy.LimitsConfig{})), o.Owners)
	require.Same(t, o.Owners, parts.(policy.Owning).Owners())
}
