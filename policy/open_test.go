package policy_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// An open is the mode Open on a store in memory of 160,000 bytes: 80,000 are promised,
// 2,000 to each of 40; 10,000 are for unclaimed mailboxes, 1,000 to each.
type open struct {
	*testing.T
	*policy.Open
	store  store.Store
	config policy.OpenConfig
	puts   int
}

const (
	wholeStore, promise, unclaimedShare, unclaimedBox = 160_000, 2_000, 10_000, 1_000
	promisedBoxes                                     = 40
)

func newOpen(t *testing.T) *open {
	o := &open{T: t, store: memory.New(memory.Options{})}
	t.Cleanup(func() { require.NoError(t, o.store.Close()) })
	o.config = policy.OpenConfig{
		Store: o.store, Promise: policy.Size{Bytes: promise}, UnclaimedBox: policy.Size{Bytes: unclaimedBox},
		Claims: policy.Unlimited, NewBoxes: policy.Unlimited, UnclaimedBytes: policy.Unlimited,
	}
	o.restart()
	return o
}

// restart keeps only the store.
func (o *open) restart() {
	var err error
	o.Open, err = policy.NewOpen(o.config)
	require.NoError(o, err)
}

func room() policy.Room {
	return policy.Room{Limits: store.Limits{Bytes: 50_000, StoreBytes: wholeStore}, Lifetime: 30 * 24 * time.Hour}
}

func (o *open) put(address string, to spec.ServerName, bytes int64) error {
	o.puts++
	c := put(address, "origin", to, bytes)
	c.room = room()
	return c.leave(o.T, o.Open, o.store, fmt.Sprint(o.puts))
}

// ask asks for mail, as its owner, and reports whether the mailbox is claimed.
func (o *open) ask(address string, owner spec.ServerName) bool {
	c := get(address, owner)
	c.room = room()
	r, err := c.begin(o.T, o.Open)
	require.NoError(o, err)
	r.Done(policy.Used{})
	return r.Member
}

func (o *open) held(name spec.ServerName) int64 {
	usage, err := o.store.Usage(o.Context(), name)
	require.NoError(o, err)
	return usage.Bytes
}

// flood leaves mail for made-up servers, from a new address each.
func (o *open) flood(n int) (taken int) {
	for range n {
		o.puts++
		if o.put(fmt.Sprintf("192.0.%d.%d", o.puts/250%250, o.puts%250), spec.ServerName(fmt.Sprint("made-up-", o.puts)), 300) == nil {
			taken++
		}
	}
	return taken
}

const roomOfProof = 4 << 10 // room for a proof is set aside while mail is on its way

func TestUnclaimedShareAndPromises(t *testing.T) {
	o := newOpen(t)
	require.True(t, o.ask("198.51.100.1", "phone"))
	o.flood(1000)
	require.LessOrEqual(t, o.held(""), int64(unclaimedShare))
	require.Greater(t, o.held(""), int64(unclaimedShare-roomOfProof-600), "the share is used")
	for range promise / 500 {
		require.NoError(t, o.put("192.0.2.1", "phone", 500), "what a claimed mailbox gets is taken")
	}
	requireStatus(t, 507, o.put("192.0.2.1", "stranger", 500))

	o.restart()
	require.Zero(t, o.flood(100), "the share is counted after a restart")
	require.NoError(t, o.put("192.0.2.1", "phone", 500), "and the claim is known")
}

func TestOneUnclaimedMailboxIsSmall(t *testing.T) {
	o := newOpen(t)
	require.NoError(t, o.put("192.0.2.1", "b", 500))
	require.NoError(t, o.put("192.0.2.1", "b", 500))
	require.ErrorIs(t, o.put("192.0.2.1", "b", 1), store.ErrFull)
	entries, err := o.store.Next(t.Context(), "b", 0, 10, 1<<20)
	require.NoError(t, err)
	require.LessOrEqual(t, entries[0].Lifetime, policy.DefaultUnclaimedLifetime)
	require.True(t, o.ask("198.51.100.1", "b"))
	require.NoError(t, o.put("192.0.2.1", "b", 1), "it is claimed")
}

// Claimed mailboxes go over their promise only into room that is promised to nobody.
func TestOverThePromise(t *testing.T) {
	o := newOpen(t)
	require.True(t, o.ask("198.51.100.1", "greedy"))
	require.True(t, o.ask("198.51.100.1", "greedy2"))
	for range 1000 {
		_ = o.put("192.0.2.1", "greedy", 500)
		_ = o.put("192.0.2.1", "greedy2", 500)
	}
	const spare = wholeStore/2 - unclaimedShare
	require.EqualValues(t, spare, o.held("greedy")+o.held("greedy2"))
	o.flood(100)
	for i := range promisedBoxes - 2 {
		owner := spec.ServerName(fmt.Sprint("owner", i))
		require.True(t, o.ask("198.51.100.1", owner))
		require.NoError(t, o.put("192.0.2.1", owner, promise))
	}
	require.False(t, o.ask("198.51.100.1", "late"), "all is promised")
	require.LessOrEqual(t, o.held(""), int64(wholeStore))
}

func TestClaimsAreLimitedByAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOpen(t)
		o.config.Claims = policy.Rate{PerSecond: 1. / 3600, Burst: 3}
		o.restart()
		claimed := 0
		for i := range 20 {
			if o.ask("192.0.2.1", spec.ServerName(fmt.Sprint("a", i))) {
				claimed++
			}
		}
		require.Equal(t, 3, claimed)
		require.True(t, o.ask("192.0.2.1", "a0"), "it is claimed, and takes no share")
		require.True(t, o.ask("192.0.2.2", "honest"))
		time.Sleep(time.Hour)
		require.True(t, o.ask("192.0.2.1", "a19"))
		require.False(t, o.ask("192.0.2.1", "a18"))
	})
}

// Many owners at one address that ask at once claim no more than its share, however
// long it takes to write a claim down.
func TestClaimsAtOnce(t *testing.T) {
	o := newOpen(t)
	o.config.Store, o.config.Claims = slowNotes{o.store.(*memory.Store)}, policy.Rate{PerSecond: 1e-6, Burst: 3}
	o.restart()
	var asking sync.WaitGroup
	var claimed atomic.Int32
	for i := range 10 {
		asking.Go(func() {
			if o.ask("192.0.2.1", spec.ServerName(fmt.Sprint("a", i))) {
				claimed.Add(1)
			}
		})
	}
	asking.Wait()
	require.EqualValues(t, 3, claimed.Load())
}

// A store that has to be reopened can still be read: claims don't hold up mail.
func TestFetchWhileNothingCanBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOpen(t)
		require.True(t, o.ask("192.0.2.1", "claimed"))
		time.Sleep(25 * time.Hour)
		o.config.Store = brokenNotes{o.store.(*memory.Store)}
		o.restart()
		require.True(t, o.ask("192.0.2.1", "claimed"))
		require.False(t, o.ask("192.0.2.1", "new"))
	})
}

type brokenNotes struct{ *memory.Store }

func (brokenNotes) SetNotes(context.Context, []store.Note) error { return store.ErrReopen }

// slowNotes are those of a disk that takes its time.
type slowNotes struct{ *memory.Store }

func (s slowNotes) SetNotes(ctx context.Context, changes []store.Note) error {
	time.Sleep(20 * time.Millisecond)
	return s.Store.SetNotes(ctx, changes)
}

// A claim whose owner hasn't asked for long gives way, if another wants its place.
func TestOldClaimsGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOpen(t)
		for i := range promisedBoxes {
			require.True(t, o.ask("192.0.2.1", spec.ServerName(fmt.Sprint("a", i))))
		}
		require.False(t, o.ask("192.0.2.1", "late"))
		for range 9 {
			time.Sleep(20 * 24 * time.Hour)
			require.True(t, o.ask("192.0.2.1", "a1"), "a1 asks now and then")
		}
		time.Sleep(24 * time.Hour)
		o.restart()
		require.True(t, o.ask("192.0.2.1", "late"))
		require.True(t, o.ask("192.0.2.1", "a1"))
		require.NoError(t, o.put("192.0.2.1", "a1", promise))
		require.ErrorIs(t, o.put("192.0.2.1", "a2", promise), store.ErrFull, "a2 has lost its claim")
	})
}

// Room comes back when mail expires, and when its mailbox is claimed.
func TestUnclaimedRoomComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOpen(t)
		o.flood(100)
		require.Zero(t, o.flood(10))
		names, err := o.store.Destinations(t.Context(), "", 10)
		require.NoError(t, err)
		for _, name := range names {
			require.True(t, o.ask("198.51.100.1", name))
		}
		require.Greater(t, o.flood(100), 5)
		require.Zero(t, o.flood(10))
		time.Sleep(policy.DefaultUnclaimedLifetime + 2*time.Hour)
		require.Greater(t, o.flood(100), 5)
	})
}

func TestUnclaimedByAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOpen(t)
		o.config.NewBoxes = policy.Rate{PerSecond: 1. / 60, Burst: 2}
		o.restart()
		require.NoError(t, o.put("192.0.2.1", "a", 10))
		require.NoError(t, o.put("192.0.2.1", "b", 10))
		wait := requireStatus(t, 429, o.put("192.0.2.1", "c", 10))
		require.NoError(t, o.put("192.0.2.1", "a", 10), "a isn't new")
		require.NoError(t, o.put("192.0.2.2", "c", 10))
		time.Sleep(wait)
		require.NoError(t, o.put("192.0.2.1", "d", 10))

		o.config.NewBoxes, o.config.UnclaimedBytes = policy.Unlimited, policy.Rate{PerSecond: 1, Burst: 2000}
		o.restart()
		require.NoError(t, o.put("192.0.2.1", "e", 900)) // with 1,000 for the entry
		require.NoError(t, o.put("192.0.2.1", "f", 900))
		requireStatus(t, 429, o.put("192.0.2.1", "g", 1))
		require.True(t, o.ask("198.51.100.1", "g"))
		require.NoError(t, o.put("192.0.2.1", "g", 900), "g is claimed")
	})
}

// On the connection of a member its own share counts for mail to unclaimed mailboxes, too.
func TestUnclaimedByKnownServer(t *testing.T) {
	o := newOpen(t)
	o.config.NewBoxes = policy.Rate{PerSecond: 1e-6, Burst: 1}
	o.restart()
	require.NoError(t, o.put("192.0.2.1", "a", 10))
	requireStatus(t, 429, o.put("192.0.2.1", "b", 10))
	phone := put("192.0.2.1", "phone", "b", 10)
	phone.known, phone.room = "phone", room()
	require.NoError(t, phone.leave(t, o.Open, o.store, "1"))
	phone.destination = "c"
	requireStatus(t, 429, phone.leave(t, o.Open, o.store, "2"))
}

// A mailbox that its owner empties and can't claim isn't a new one each time.
func TestEmptiedMailboxIsNotNew(t *testing.T) {
	o := newOpen(t)
	o.config.Claims, o.config.NewBoxes = policy.Rate{PerSecond: 1e-6, Burst: 1}, policy.Rate{PerSecond: 1e-6, Burst: 1}
	o.restart()
	require.True(t, o.ask("198.51.100.1", "first"))
	for range 5 {
		require.NoError(t, o.put("192.0.2.1", "second", 10))
		require.False(t, o.ask("198.51.100.1", "second"))
		entries, err := o.store.Next(t.Context(), "second", 0, 1, 1<<20)
		require.NoError(t, err)
		_, err = o.store.Ack(t.Context(), "second", entries[0].ID)
		require.NoError(t, err)
	}
	requireStatus(t, 429, o.put("192.0.2.1", "third", 10))
}

func TestOpenNeedsNotes(t *testing.T) {
	_, err := policy.NewOpen(policy.OpenConfig{Store: struct{ store.Store }{memory.New(memory.Options{})}})
	require.Error(t, err)
}

// With random requests of strangers from many addresses, a claimed mailbox has the room
// that it was promised.
func TestRandomOpen(t *testing.T) {
	seeds.Each(t, "RELAY_POLICY_SEED", "RELAY_POLICY_RUNS", 3, func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) { randomOpen(t, rand.New(rand.NewPCG(seed, 0))) })
	})
}

func randomOpen(t *testing.T, random *rand.Rand) {
	o := newOpen(t)
	claimed := make(map[spec.ServerName]bool)
	name := func() spec.ServerName { return spec.ServerName(fmt.Sprint("s", random.IntN(120))) }
	for range 3000 {
		address := fmt.Sprintf("192.0.2.%d", random.IntN(200))
		switch random.IntN(100) {
		case 0:
			o.restart()
		case 1:
			time.Sleep(time.Duration(random.Int64N(int64(48 * time.Hour))))
		case 2, 3, 4:
			owner := name()
			if o.ask(address, owner) {
				claimed[owner] = true
			} else {
				require.False(t, claimed[owner], "a claim isn't lost")
				require.Len(t, claimed, promisedBoxes)
			}
		default:
			to, bytes := name(), 1+random.Int64N(promise/2)
			fits := claimed[to] && o.held(to)+bytes <= promise
			if err := o.put(address, to, bytes); fits {
				require.NoError(t, err, "a promise was broken")
			}
		}
		unclaimed := int64(0)
		for i := range 120 {
			if s := spec.ServerName(fmt.Sprint("s", i)); !claimed[s] {
				unclaimed += o.held(s)
			}
		}
		require.LessOrEqual(t, unclaimed, int64(unclaimedShare))
	}
}

// Of a small mailbox one origin has the same part as of a large one.
func TestOriginsShareOfAnUnclaimedMailbox(t *testing.T) {
	o := newOpen(t)
	c := put("192.0.2.1", "origin", "b", 300)
	c.room = room()
	c.room.Limits.OriginBytes = c.room.Limits.Bytes / 2
	require.NoError(t, c.leave(t, o.Open, o.store, "1"))
	require.ErrorIs(t, c.leave(t, o.Open, o.store, "2"), store.ErrFull)
	c.origin = "another"
	require.NoError(t, c.leave(t, o.Open, o.store, "3"))
}
