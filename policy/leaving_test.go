package policy_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

func (o *owned) leave(owner spec.ServerName, leaving wire.Leaving) error {
	return o.Leave(o.Context(), o.asked(owner, wire.Leave), leaving)
}

func (o *owned) comeBack(owner spec.ServerName, after string) error {
	return o.Return(o.Context(), o.asked(owner, wire.Mailbox), wire.Return{After: after})
}

func (o *owned) requireState(owner spec.ServerName, state string, entries int64) {
	o.Helper()
	got, err := o.state(owner)
	require.NoError(o, err)
	require.Equal(o, state, got.State)
	require.Equal(o, entries, got.Entries)
}

// fetch asks for mail as its owner, and reports whether the mailbox is claimed.
func (o *owned) fetch(owner spec.ServerName) bool {
	c := get("198.51.100.1", owner)
	c.room = room()
	r, err := c.begin(o.T, o.Owners)
	require.NoError(o, err)
	return r.Member
}

// Modes in which b has a mailbox, once it has asked.
func leavable(t *testing.T) map[string]*owned {
	all := map[string]*owned{
		"any":    newOwned(t, nil),
		"closed": newOwned(t, func(store.Store) policy.Policy { return policy.NewClosed("b") }),
		"open": newOwned(t, func(s store.Store) policy.Policy {
			open, err := policy.NewOpen(policy.OpenConfig{Store: s, Claims: policy.Unlimited, Promise: policy.Size{Bytes: wholeStore / 2}})
			require.NoError(t, err)
			return open
		}),
		"invite": newOwned(t, func(s store.Store) policy.Policy {
			return newInvite(t, func(c *policy.InviteConfig) { c.Store, c.Promise = s, policy.Size{Bytes: wholeStore / 2} })
		}),
	}
	require.NoError(t, all["invite"].claim("b", invitation(t, 9, time.Now())))
	all["open"].fetch("b")
	return all
}

func (o *owned) claim(server spec.ServerName, text string) error {
	made, err := wire.NewClaim(text, inviter, server)
	require.NoError(o, err)
	return o.Claim(o.Context(), o.asked(server, wire.Mailbox), made)
}

// A mailbox that was left takes no mail, lets its owner fetch the mail that is there, and takes
// mail again when the owner comes back, with the policy that it had. Requests that
// were recorded meanwhile are of no use.
func TestLeaveAndComeBack(t *testing.T) {
	for mode, o := range leavable(t) {
		require.NoError(t, o.set("b", wire.MailboxPolicy{Seq: 3, Deny: names("enemy")}))
		require.NoError(t, o.put("a", "b", 10))
		first := o.name("b")
		requireStatus(t, 403, o.leave("b", wire.Leaving{Mailbox: "another"}))
		requireStatus(t, 403, o.comeBack("b", first)) // it wasn't left
		for range 2 {
			require.NoError(t, o.leave("b", wire.Leaving{Mailbox: first}), mode)
			requireStatus(t, 403, o.put("a", "b", 10))
			o.fetch("b") // doesn't open it
			o.requireState("b", wire.StateLeft, 1)
			o.restart()
		}
		require.NoError(t, o.leave("b", wire.Leaving{Mailbox: first, Discard: true}))
		o.requireState("b", wire.StateLeft, 0)
		require.False(t, o.fetch("b") && (mode == "open" || mode == "invite"), "its room is free for others")

		requireStatus(t, 403, o.comeBack("b", "another"))
		require.NoError(t, o.comeBack("b", first))
		require.NotEqual(t, first, o.name("b"))
		require.NoError(t, o.put("a", "b", 10))
		requireStatus(t, 403, o.put("enemy", "b", 10))
		for range 2 {
			requireStatus(t, 403, o.leave("b", wire.Leaving{Mailbox: first, Discard: true}))
			requireStatus(t, 403, o.comeBack("b", first))
			requireStatus(t, 403, o.set("b", wire.MailboxPolicy{Seq: 9, Mailbox: first}))
			requireStatus(t, 409, o.set("b", wire.MailboxPolicy{Seq: 3}))
			o.requireState("b", wire.StateOpen, 1)
			o.restart()
		}
		require.Equal(t, mode != "any", o.fetch("b"))
	}
}

// After a server has left, the invites that it has used are of no use, also to those that
// have recorded how it did; a new one opens its mailbox.
func TestInviteAfterLeaving(t *testing.T) {
	for _, discard := range []bool{true, false} {
		o := newOwned(t, func(s store.Store) policy.Policy {
			return newInvite(t, func(c *policy.InviteConfig) { c.Store = s })
		})
		first, second := invitation(t, 9, time.Now()), invitation(t, 1, time.Now())
		require.NoError(t, o.claim("b", first))
		before := o.name("b")
		require.NoError(t, o.put("a", "b", 10))
		require.NoError(t, o.leave("b", wire.Leaving{Mailbox: before, Discard: discard}))
		requireStatus(t, 403, o.claim("b", first))
		requireStatus(t, 403, o.put("a", "b", 10))
		require.NoError(t, o.claim("b", second))
		require.NoError(t, o.claim("b", second), "repeats are free")
		require.NotEqual(t, before, o.name("b"))
		require.NoError(t, o.put("a", "b", 10))
		requireStatus(t, 403, o.comeBack("b", before))
		require.NoError(t, o.leave("b", wire.Leaving{Mailbox: o.name("b"), Discard: discard}))
		requireStatus(t, 403, o.claim("b", second))
	}
}

// Mail that was left behind takes nothing from mailboxes that aren't claimed, and the
// room is free for another claim once it is gone: discarded, or fetched.
func TestLeavingFreesRoom(t *testing.T) {
	for _, fetched := range []bool{false, true} {
		testLeavingFreesRoom(t, fetched)
	}
}

// fetchAll acknowledges all mail.
func (o *owned) fetchAll(owner spec.ServerName) {
	entries, err := o.store.Next(o.Context(), owner, 0, 1000, 1<<20)
	require.NoError(o, err)
	_, err = o.store.Ack(o.Context(), owner, entries[len(entries)-1].ID)
	require.NoError(o, err)
}

func testLeavingFreesRoom(t *testing.T, fetched bool) {
	for mode, o := range leavable(t) {
		if mode == "any" || mode == "closed" {
			continue
		}
		other := func() error {
			if mode == "invite" {
				return o.claim("c", invitation(t, 1, time.Now()))
			}
			if !o.fetch("c") {
				return fmt.Errorf("not claimed")
			}
			return nil
		}
		require.NoError(t, o.put("a", "b", 10))
		require.NoError(t, o.leave("b", wire.Leaving{Mailbox: o.name("b")}))
		require.True(t, o.fetch("b"), "it has mail there")
		require.Error(t, other())
		if fetched {
			o.fetchAll("b")
			require.False(t, o.fetch("b"))
		} else {
			require.NoError(t, o.leave("b", wire.Leaving{Mailbox: o.name("b"), Discard: true}))
		}
		require.NoError(t, other(), mode)
		err := o.comeBack("b", o.name("b"))
		if mode == "invite" { // where there are places for one and a half
			requireStatus(t, 507, err)
			o.requireState("b", wire.StateLeft, 0)
		}
	}
}

// After 120 days a mailbox that was left is as if it never was.
func TestLeftForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwned(t, nil)
		o.config.Most = 1
		o.restart()
		before := o.name("b")
		require.NoError(t, o.leave("b", wire.Leaving{Mailbox: before}))
		time.Sleep(119 * 24 * time.Hour)
		requireStatus(t, 403, o.put("a", "b", 10))
		_, err := o.state("c")
		requireStatus(t, 507, err)
		time.Sleep(2 * 24 * time.Hour)
		require.NoError(t, o.put("a", "b", 10))
		requireStatus(t, 403, o.comeBack("b", before))
		o.name("c")
		_, err = o.state("b")
		requireStatus(t, 507, err)
	})
}

// Much mail is discarded, in steps.
func TestDiscard(t *testing.T) {
	o := newOwned(t, nil)
	for range 900 {
		require.NoError(t, o.put("a", "b", 50))
	}
	require.NoError(t, o.put("a", "c", 50))
	require.NoError(t, o.leave("b", wire.Leaving{Mailbox: o.name("b"), Discard: true}))
	o.requireState("b", wire.StateLeft, 0)
	o.requireState("c", wire.StateOpen, 1)
}

// busyNotes is a store in which something happens before notes are written, or after
// they were read.
type busyNotes struct {
	*memory.Store
	before, after func()
}

func once(f *func()) {
	if do := *f; do != nil {
		*f = nil
		do()
	}
}

func (s *busyNotes) SetNotes(ctx context.Context, changes []store.Note) error {
	once(&s.before)
	return s.Store.SetNotes(ctx, changes)
}

func (s *busyNotes) Notes(ctx context.Context, prefix, after string, limit int) ([]store.Note, error) {
	notes, err := s.Store.Notes(ctx, prefix, after, limit)
	once(&s.after)
	return notes, err
}

// A mailbox that was left while somebody asked for it isn't remembered as it was.
func TestLeavingBesideMail(t *testing.T) {
	s := &busyNotes{Store: memory.New(memory.Options{})}
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	o := &owned{T: t, store: s, config: policy.OwnersConfig{Store: s}}
	o.restart()
	name := o.name("b")
	o.restart()
	s.after = func() { require.NoError(t, o.leave("b", wire.Leaving{Mailbox: name})) }
	require.NoError(t, o.put("a", "b", 10), "it began before")
	requireStatus(t, 403, o.put("a", "b", 10))
}

// A claim that is given up while somebody asks for it is given up, and its owner can
// claim the mailbox again.
func TestGivingUpBesideMail(t *testing.T) {
	s := &busyNotes{Store: memory.New(memory.Options{})}
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	restart := func() *owned {
		o := &owned{T: t, store: s, config: policy.OwnersConfig{Store: s}}
		o.config.Mode = newInvite(t, func(c *policy.InviteConfig) { c.Store = s })
		o.restart()
		return o
	}
	o := restart()
	require.NoError(t, o.claim("b", invitation(t, 1, time.Now())))
	name := o.name("b")
	require.NoError(t, o.leave("b", wire.Leaving{Mailbox: name})) // once, so that the next only gives up the claim
	require.NoError(t, o.comeBack("b", name))
	name = o.name("b")
	leaving := o.asked("b", wire.Leave)
	s.before = func() { // the mailbox was left
		s.before = func() { requireStatus(t, 403, o.put("a", "b", 10)) } // while the claim is given up
	}
	require.NoError(t, o.Leave(t.Context(), leaving, wire.Leaving{Mailbox: name}))
	require.False(t, o.fetch("b"), "it is given up")
	require.NoError(t, o.comeBack("b", name))
	require.NoError(t, restart().put("a", "b", 10), "it is claimed on the disk")
}
