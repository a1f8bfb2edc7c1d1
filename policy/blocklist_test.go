package policy_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
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

func newBlocklist(t *testing.T, s store.Store, entity ...string) *policy.Blocklist {
	t.Helper()
	b, err := policy.NewBlocklist(t.Context(), s)
	require.NoError(t, err)
	for _, one := range entity {
		_, err := b.Block(t.Context(), policy.Block{Entity: one})
		require.NoError(t, err)
	}
	return b
}

func refuses(t *testing.T, err error) {
	t.Helper()
	var refusal *wire.Error
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, 403, refusal.Status)
}

func TestBlockedServers(t *testing.T) {
	b := newBlocklist(t, memory.New(memory.Options{}), "evil.example", "*.Spam.example", "dot.example.", "port.example:8448", "192.0.2.7", "2001:db8::7")
	for name, blocked := range map[spec.ServerName]bool{
		"evil.example": true, "Evil.example": true, "evil.example:8448": true, "evil.example.": true, "evil.example.:8448": true, "a.spam.example.": true, "dot.example": true, "sub.evil.example": false, "notevil.example": false,
		"spam.example": false, "a.spam.example": true, "A.b.spam.example:1": true, "aspam.example": false,
		"port.example:8448": true, "port.example": false, "port.example:1": false,
		"192.0.2.7": true, "192.0.2.7:8448": true, "192.0.2.8": false, "[2001:db8::7]:8448": true,
	} {
		for _, try := range []try{put("", name, "b.example", 1), get("", name)} {
			r, err := try.begin(t, b)
			if blocked {
				refuses(t, err)
				require.Equal(t, policy.Claimed, r.Stage, "before the body was read")
			} else {
				require.NoError(t, err, name)
			}
		}
	}
	require.NoError(t, put("", "a.example", "evil.example", 1).run(t, b), "mail for a server isn't from it")
	require.NoError(t, b.Admit(t.Context(), &policy.Request{Stage: policy.Claimed, Endpoint: wire.SendRelay, Origin: "a.example"}))
	refuses(t, b.Admit(t.Context(), &policy.Request{Stage: policy.Claimed, Endpoint: wire.SendRelay, Origin: "evil.example", PassedOn: true}))
}

func TestBlockedAddresses(t *testing.T) {
	b := newBlocklist(t, memory.New(memory.Options{}), "192.0.2.77/24", "198.51.100.1", "::ffff:198.51.100.2", "2001:db8::1/32", "fe80::1")
	for address, blocked := range map[string]bool{
		"192.0.2.1": true, "192.0.3.1": false, "::ffff:192.0.2.1": true, "198.51.100.1": true, "198.51.100.2": true, "198.51.100.3": false,
		"2001:db8:ffff::1": true, "2001:db9::1": false, "fe80::1%eth0": true, "fe80::2": false, "": false,
	} {
		r, err := get(address, "b.example").begin(t, b)
		if blocked {
			refuses(t, err)
			require.Equal(t, policy.Arrived, r.Stage, "before anything else")
		} else {
			require.NoError(t, err, address)
		}
	}
}

func TestBlocksAreKept(t *testing.T) {
	s := memory.New(memory.Options{})
	b := newBlocklist(t, s, "b.example", "192.0.2.9/24")
	block, err := b.Block(t.Context(), policy.Block{Entity: "A.example", Reason: "fills the disk"})
	require.NoError(t, err)
	require.Equal(t, "a.example", block.Entity)
	require.WithinDuration(t, time.Now(), block.Since, time.Hour)

	other := newBlocklist(t, s)
	require.Equal(t, b.Blocked("", 10), other.Blocked("", 10))
	entities := func(blocks []policy.Block) (all []string) {
		for _, block := range blocks {
			all = append(all, block.Entity)
		}
		return all
	}
	require.Equal(t, []string{"192.0.2.0/24", "a.example"}, entities(other.Blocked("", 2)))
	require.Equal(t, []string{"b.example"}, entities(other.Blocked("a.example", 2)))
	require.Equal(t, "fills the disk", other.Blocked("", 10)[1].Reason)

	for _, entity := range []string{"A.EXAMPLE", "192.0.2.1/24"} {
		found, err := other.Unblock(t.Context(), entity)
		require.NoError(t, err)
		require.True(t, found)
		found, err = b.Unblock(t.Context(), entity) // it learns of it
		require.NoError(t, err)
		require.False(t, found)
	}
	require.NoError(t, get("192.0.2.1", "a.example").run(t, b))
	require.Equal(t, []string{"b.example"}, entities(newBlocklist(t, s).Blocked("", 0)))
}

// Another process on the same store follows within a minute, and goes on with the old
// list while the store fails.
func TestBlocksOfAnotherProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &failingNotes{Store: memory.New(memory.Options{})}
		b := newBlocklist(t, s, "old.example")
		newBlocklist(t, s, "new.example")
		require.NoError(t, get("", "new.example").run(t, b))
		s.fails = true
		time.Sleep(2 * time.Minute)
		refuses(t, get("", "old.example").run(t, b))
		require.NoError(t, get("", "new.example").run(t, b))
		s.fails = false
		time.Sleep(2 * time.Minute)
		refuses(t, get("", "new.example").run(t, b))
	})
}

// A stranger that goes away at once, whenever the list is read again, is blocked all the same.
func TestBlockedAndGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(memory.Options{})
		b := newBlocklist(t, s)
		newBlocklist(t, s, "192.0.2.1")
		time.Sleep(2 * time.Minute)
		gone, goes := context.WithCancel(t.Context())
		goes()
		refuses(t, b.Admit(gone, &policy.Request{Address: netip.MustParseAddr("192.0.2.1")}))
		refuses(t, get("192.0.2.1", "a.example").run(t, b))
		require.NoError(t, s.Close())
	})
}

type failingNotes struct {
	*memory.Store
	fails bool
}

func (f *failingNotes) Notes(ctx context.Context, prefix, after string, limit int) ([]store.Note, error) {
	if f.fails {
		return nil, errors.New("it fails")
	}
	return f.Store.Notes(ctx, prefix, after, limit)
}

func TestNotToBeBlocked(t *testing.T) {
	s := memory.New(memory.Options{})
	b := newBlocklist(t, s)
	for _, entity := range []string{"", "a b", "*.", "*", "192.0.2.0/33", "::ffff:192.0.2.0/120", strings.Repeat("a", 300)} {
		_, err := b.Block(t.Context(), policy.Block{Entity: entity})
		require.ErrorIs(t, err, policy.ErrBlock, entity)
		_, err = b.Unblock(t.Context(), entity)
		require.ErrorIs(t, err, policy.ErrBlock, entity)
	}
	_, err := b.Block(t.Context(), policy.Block{Entity: "a.example", Reason: strings.Repeat("x", policy.MaxBlockReason+1)})
	require.ErrorIs(t, err, policy.ErrBlock)
	require.Empty(t, b.Blocked("", 10))

	_, err = policy.NewBlocklist(t.Context(), struct{ store.Store }{s})
	require.ErrorContains(t, err, "keeps no notes")
}

func TestTooManyBlocks(t *testing.T) {
	s := memory.New(memory.Options{})
	var notes []store.Note
	for i := range policy.MaxBlocks {
		notes = append(notes, store.Note{Key: fmt.Sprintf("relay/block/s%d.example", i), Value: []byte(`{}`)})
	}
	require.NoError(t, s.SetNotes(t.Context(), notes))
	b := newBlocklist(t, s)
	_, err := b.Block(t.Context(), policy.Block{Entity: "one.example"})
	require.ErrorIs(t, err, policy.ErrManyBlocks)
	_, err = b.Block(t.Context(), policy.Block{Entity: "s7.example", Reason: "changed"})
	require.NoError(t, err)
	refuses(t, get("", "s7.example").run(t, b))
}
