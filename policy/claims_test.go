package policy_test

import (
	"context"
	"fmt"
	"sync/atomic"
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

// A hangingStore hangs while that is a channel which isn't closed: when it writes notes,
// or before it lists the destinations a second time.
type hangingStore struct {
	*memory.Store
	notes, destinations chan struct{}
	lists               atomic.Int64 // of claims
}

func (s *hangingStore) SetNotes(ctx context.Context, changes []store.Note) error {
	if s.notes != nil {
		<-s.notes
	}
	return s.Store.SetNotes(ctx, changes)
}

func (s *hangingStore) Notes(ctx context.Context, prefix, after string, limit int) ([]store.Note, error) {
	if limit > 1 {
		s.lists.Add(1)
	}
	return s.Store.Notes(ctx, prefix, after, limit)
}

func (s *hangingStore) Destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	if s.destinations != nil && after != "" {
		<-s.destinations
	}
	return s.Store.Destinations(ctx, after, limit)
}

func newHanging(t *testing.T) (*open, *hangingStore) {
	o := newOpen(t)
	s := &hangingStore{Store: o.store.(*memory.Store)}
	o.config.Store = s
	o.restart()
	return o, s
}

// While one claim hangs in the store, members get their mail, and nobody waits for it
// longer than the request lasts.
func TestClaimThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, s := newHanging(t)
		require.True(t, o.ask("192.0.2.1", "member"))
		time.Sleep(25 * time.Hour) // so that it is to be noted that it asks
		s.notes = make(chan struct{})
		go o.ask("192.0.2.2", "hangs")
		synctest.Wait()
		require.True(t, o.ask("192.0.2.1", "member"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r := &policy.Request{Stage: policy.Signed, Endpoint: "relay_txn", Origin: "new", Destination: "new", Room: room()}
		require.ErrorIs(t, o.Admit(ctx, r), context.DeadlineExceeded)
		close(s.notes)
		synctest.Wait()
		require.True(t, o.ask("192.0.2.1", "new"))
	})
}

// A claim doesn't list all claims each time. Those of another relay on the same store
// are noticed.
func TestClaimsAreCountedNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, s := newHanging(t)
		for i := range promisedBoxes / 2 {
			require.True(t, o.ask("192.0.2.1", spec.ServerName(fmt.Sprint("a", i))))
		}
		require.LessOrEqual(t, s.lists.Load(), int64(2), "a page, and the end")
		other, err := policy.NewOpen(o.config)
		require.NoError(t, err)
		o.Open, other = other, o.Open
		for i := range promisedBoxes / 2 {
			require.True(t, o.ask("192.0.2.1", spec.ServerName(fmt.Sprint("b", i))))
		}
		require.False(t, o.ask("192.0.2.1", "c"))
		time.Sleep(2 * time.Minute)
		o.Open = other
		require.False(t, o.ask("192.0.2.1", "c"))
	})
}

// Mail that is stored while the unclaimed mailboxes are counted counts, too.
func TestStoredWhileCounting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const share, bytes = wholeStore / 4, 8_000
		o, s := newHanging(t)
		o.config.UnclaimedPart, o.config.UnclaimedBox = 0.25, policy.Size{Bytes: share}
		o.restart()
		require.NoError(t, o.put("192.0.2.1", "b", share/2))
		time.Sleep(2 * time.Minute)
		late := put("192.0.2.2", "origin", "a", bytes)
		late.room = room()
		r, err := late.begin(t, o.Open)
		require.NoError(t, err)
		s.destinations = make(chan struct{})
		counted := make(chan error)
		go func() { counted <- o.put("192.0.2.3", "c", share/2-6_000) }()
		synctest.Wait() // b was counted, which comes after a
		_, err = s.Put(t.Context(), store.Mail{Origin: "origin", Destination: "a", Body: make([]byte, bytes), Lifetime: time.Hour}, store.Limits{})
		require.NoError(t, err)
		r.Done(policy.Used{Stored: bytes})
		close(s.destinations)
		requireStatus(t, 507, <-counted)
		require.NoError(t, o.put("192.0.2.3", "d", 7_000))
	})
}

// Of two relays on the same store each learns within a minute that a claim is gone, or is
// there, though it has known better before.
func TestClaimsOfAnotherRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOpen(t)
		other, err := policy.NewOpen(o.config)
		require.NoError(t, err)
		owners, err := policy.NewOwners(policy.OwnersConfig{Store: o.store, Mode: other})
		require.NoError(t, err)
		acts := func(p *policy.Open) bool {
			acts, err := p.Acts(t.Context(), "b")
			require.NoError(t, err)
			return acts
		}
		require.False(t, acts(o.Open))
		require.NoError(t, get("192.0.2.1", "b").run(t, owners))
		require.True(t, acts(o.Open), "it is looked up each time as long as there is none")

		state, err := owners.Mailbox(t.Context(), &policy.Request{Origin: "b", Member: true})
		require.NoError(t, err)
		require.NoError(t, owners.Leave(t.Context(), &policy.Request{Origin: "b"}, wire.Leaving{Mailbox: state.Mailbox}))
		require.False(t, acts(other))
		require.True(t, acts(o.Open), "as it was")
		time.Sleep(time.Minute)
		require.False(t, acts(o.Open))
	})
}
