package relay

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/address"
	"github.com/matrixrelay/relay/internal/seeds"
)

const mib = 1 << 20

// at is a holder at one of 256 addresses.
func at(host byte, name spec.ServerName) holder {
	return holder{address.Of(netip.AddrFrom4([4]byte{192, 0, 2, host})), name}
}

// A transferred is a transfer that can be cut off.
type transferred struct {
	*share
	isOver bool
	cutAt  int64 // its bytes then
	modest bool  // and whether its party was
}

// begin begins a transfer that holds so much, and gives it back when it is cut off.
func begin(t testing.TB, b *budget, by holder, bytes int64) *transferred {
	t.Helper()
	o := start(b, by)
	require.True(t, o.set(bytes, false))
	return o
}

func start(b *budget, by holder) *transferred {
	o := new(transferred)
	o.share = b.share(by, func() bool {
		o.isOver, o.cutAt, o.modest = true, o.share.held, o.party.isModest()
		time.AfterFunc(time.Millisecond, o.release)
		return true
	})
	return o
}

// An answer that begins after all were cut off, since the store was slow, is cut off.
func TestCutAllHoldsForLater(t *testing.T) {
	b := newBudget(1)
	cut := 0
	end := func() bool { cut++; return true }
	b.share(holder{}, end)
	b.cutAll()
	require.Equal(t, 1, cut)
	b.share(holder{}, end)
	require.Equal(t, 2, cut)
}

// Of the address that holds most one is cut off, though it has only begun, and not the
// phone that has been at it for long.
func TestLargestPartyIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(48 * mib)
		phone := begin(t, b, at(1, "phone"), 3*mib)
		time.Sleep(time.Minute)
		var flood []*transferred
		for range 3 {
			flood = append(flood, begin(t, b, at(2, "flood"), 10*mib))
		}
		other := start(b, at(3, "other"))
		began := time.Now()
		require.True(t, other.set(8*mib, true))
		require.Less(t, time.Since(began), time.Second)
		require.True(t, flood[0].isOver)
		require.False(t, flood[1].isOver || flood[2].isOver || phone.isOver)
		require.True(t, phone.set(4*mib, false))
	})
}

// A /48 has so many addresses that each needs to hold only little. They are cut off for a
// phone that holds as much as one of them, and phones that share a /48 aren't for another.
func TestWideSiteIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(48 * mib)
		site := func(site, host byte) holder {
			return holder{address.Of(netip.AddrFrom16([16]byte{0x2a, 1, 0, 1, 0, site, 0, host})), "n"}
		}
		carrier := begin(t, b, site(1, 1), 2*mib)
		var flood []*transferred
		for i := range 34 {
			flood = append(flood, begin(t, b, site(2, byte(i)), mib))
		}
		phone, other := start(b, at(1, "phone")), start(b, site(1, 2))
		require.True(t, phone.set(mib, true))
		require.True(t, other.set(mib, true))
		require.False(t, carrier.isOver || phone.isOver)
		cut := 0
		for _, o := range flood {
			if o.isOver {
				cut++
			}
		}
		require.Equal(t, 2, cut)
		for _, o := range append(flood, carrier, phone, other) {
			o.release()
		}
		require.Empty(t, b.sites)
	})
}

// Of one address, the name that holds most is cut off first, and of that the oldest.
func TestLargestNameIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(48 * mib)
		first := begin(t, b, at(1, "little"), mib)
		old, young := begin(t, b, at(1, "much"), 17*mib), begin(t, b, at(1, "much"), 17*mib)
		next := start(b, at(1, "little"))
		require.False(t, next.set(10*mib, true), "those of its own address have their grace")
		require.False(t, old.isOver)
		time.Sleep(grace)
		require.True(t, next.set(10*mib, true))
		require.True(t, old.isOver)
		require.False(t, first.isOver || young.isOver)
	})
}

// A small transfer is never cut off for a large one, however long it takes.
func TestSmallIsNotCutForLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(8 * mib)
		var phones []*transferred
		for i := range 32 {
			phones = append(phones, begin(t, b, at(byte(i/8), "phone"), small))
		}
		time.Sleep(time.Hour)
		large := start(b, at(200, "large"))
		require.False(t, large.set(mib, true))
		for _, phone := range phones {
			require.False(t, phone.isOver)
		}
		another := start(b, at(201, "another"))
		require.True(t, another.set(small, true), "but for a small one of somebody who holds less")
		cut := 0
		for _, phone := range phones {
			if phone.isOver {
				cut++
			}
		}
		require.Equal(t, 1, cut)
	})
}

// An address or a site that has many small transfers keeps no large one of others out: it
// has some cut off, as few as must be, and nobody else has.
func TestManySmallAreCutForLarge(t *testing.T) {
	for name, c := range map[string]struct {
		from  func(i int) holder
		times int
		cut   bool
	}{
		"one address": {func(i int) holder { return at(1, spec.ServerName(fmt.Sprint(i))) }, 1, true},
		"a site":      {func(i int) holder { return atText(fmt.Sprintf("2a01:1:1:%x::1", i)) }, address.Wide, true},
		"an overlay":  {func(i int) holder { return atText(fmt.Sprintf("200::%x", i)) }, address.Wide, true},
		"addresses":   {func(i int) holder { return at(byte(i), "phone") }, 1, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBudget(int64(c.times) * 40 * mib)
			var many, phones []*transferred
			for i := range c.times * 110 {
				many = append(many, begin(t, b, c.from(i%250), small))
			}
			for range modest / small {
				phones = append(phones, begin(t, b, at(251, "phone"), small))
			}
			time.Sleep(time.Hour)
			large := start(b, at(252, "large"))
			require.Equal(t, c.cut, large.set(int64(c.times)*8*mib, true), name)
			cut := 0
			for _, one := range many {
				if one.isOver {
					cut++
				}
			}
			if c.cut {
				require.Equal(t, c.times*(110+32-120)+12, cut, name)
			} else {
				require.Zero(t, cut, name)
			}
			for _, phone := range phones {
				require.False(t, phone.isOver, name)
			}
		})
	}
}

func atText(text string) holder { return holder{address.Of(netip.MustParseAddr(text)), "n"} }

// A small transfer stays one while its check takes many times as much, and a large one
// doesn't become small.
func TestCheckedStaysSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(8 * mib)
		phone := begin(t, b, at(1, "phone"), small)
		phone.staysSmall(12)
		require.True(t, phone.set(3*mib, true))
		require.EqualValues(t, 3*mib, b.heldBySmall)
		large := begin(t, b, at(2, "large"), 2*mib)
		large.staysSmall(12)
		require.EqualValues(t, 3*mib, b.heldBySmall)
		time.Sleep(time.Hour)
		require.True(t, start(b, at(3, "another")).set(3*mib, true))
		require.True(t, large.isOver)
		require.False(t, phone.isOver)
		phone.release()
		require.Zero(t, b.heldBySmall)
	})
}

// A large transfer that is alone may hold more than there is: a check takes many times its
// body. Small ones have their part even then, and no more.
func TestSmallBesideMoreThanThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(8 * mib)
		alone := b.share(at(1, "alone"), nil) // it is being checked
		require.True(t, alone.set(20*mib, true))
		var phones []*share
		for range 8 {
			phone := b.share(at(2, "phone"), nil)
			require.True(t, phone.set(small/2, false))
			require.True(t, phone.set(small, false))
			phones = append(phones, phone)
		}
		require.False(t, start(b, at(3, "another")).set(small, true))
		phones[0].release()
		require.True(t, start(b, at(3, "another")).set(small, true))
		require.False(t, start(b, at(4, "large")).set(small+1, true))
		phones[1].release()
		require.False(t, phones[2].set(small+1, true), "it isn't small any more")
		alone.release()
		require.True(t, phones[2].set(small+1, true))
		require.EqualValues(t, 6*small, b.heldBySmall)
	})
}

// Two addresses that hold as much don't cut each other off before their grace is over,
// or none would ever come to its end.
func TestEqualPartiesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(16 * mib)
		one, two := begin(t, b, at(1, "one"), 10*mib), start(b, at(2, "two"))
		time.Sleep(grace - 2*patience)
		require.False(t, two.set(10*mib, true))
		require.False(t, one.isOver)
		time.AfterFunc(patience/2, one.release)
		require.True(t, two.set(10*mib, true), "in line")
	})
}

// While a party that holds less waits in line, those that hold more get nothing: else
// they would take the memory that is given back, again and again.
func TestLineIsByParty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(16 * mib)
		var flood []*share
		for range 3 {
			s := b.share(at(1, "flood"), nil) // it is being stored
			require.True(t, s.set(4*mib, false))
			flood = append(flood, s)
		}
		for i := range 100 {
			honest, got := start(b, at(2, "honest")), false
			go func() { got = honest.set(2*mib, true) }()
			synctest.Wait()
			flood[i%3].release()
			flood[i%3] = b.share(at(1, "flood"), nil)
			require.False(t, flood[i%3].set(4*mib, false), "it came later, and its address holds more")
			synctest.Wait()
			require.True(t, got)
			honest.release()
			require.True(t, flood[i%3].set(4*mib, false), "nobody waits")
		}
	})
}

// TestBudgetRandom: for random transfers, a budget isn't exceeded, no party is cut off for
// one that would hold more, no small transfer for a large one unless its party has many,
// and the party that would hold least finds room.
func TestBudgetRandom(t *testing.T) {
	seed := seeds.Of(t, "RELAY_BUDGET_SEED")
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 0))
		b := newBudget(16 * mib)
		var all []*transferred
		cut := 0
		for range 3000 {
			by := at(byte(random.IntN(4)), spec.ServerName(fmt.Sprint("n", random.IntN(3))))
			size := []int64{5_000, small, mib, 3 * mib}[random.IntN(4)]
			cut += checkOne(t, b, &all, by, size)
			time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
			for len(all) > 0 && random.IntN(3) == 0 {
				i := random.IntN(len(all))
				all[i].release()
				all = append(all[:i], all[i+1:]...)
			}
		}
		require.Greater(t, cut, 100)
	})
}

func checkOne(t testing.TB, b *budget, all *[]*transferred, by holder, size int64) (cut int) {
	most, before := int64(0), make(map[*transferred]bool)
	for _, o := range *all {
		before[o] = o.isOver
		most = max(most, o.party.held)
	}
	o := start(b, by)
	would := o.party.held + size
	got := o.set(size, true)
	require.LessOrEqual(t, b.held, b.total)
	kept, cut := (*all)[:0], 0
	for _, other := range *all {
		if other.isOver && !before[other] {
			require.False(t, size > small && other.cutAt <= small && other.modest, "a small one was cut off for a large one")
			cut++
		}
		if !other.isOver {
			kept = append(kept, other)
		}
	}
	*all = kept
	if would < most && size <= small {
		require.True(t, got, "somebody else holds more")
	}
	if !got {
		o.release()
		return cut
	}
	*all = append(*all, o)
	return cut
}

// Memory for a body of a known size is made room for in few steps, since what each step
// leaves behind stays for a while. Before an eighth has come it isn't taken.
func TestKnownSizeGrowsInFewSteps(t *testing.T) {
	const size = 10 * mib
	body := body{share: newBudget(48*mib).share(holder{}, nil)}
	body.bytes = make([]byte, 0, firstRead)
	left := 0
	for cap(body.bytes) <= size {
		came := cap(body.bytes)
		left += came
		body.bytes = body.bytes[:came]
		require.True(t, body.makeRoom(size, size))
		require.LessOrEqual(t, cap(body.bytes), 8*came+8)
	}
	require.Equal(t, size+1, cap(body.bytes))
	require.EqualValues(t, size+1, body.held)
	require.Less(t, left, size/2+1)
}

// A large transfer finds room beside a steady stream of small ones that is within half of
// the memory, however often they come, and they find theirs beside it.
func TestLargeBesideSteadySmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(40 * mib)
		phones := make([]*transferred, 80) // which hold 20 MiB
		for i := range phones {
			phones[i] = begin(t, b, at(byte(i), "phone"), small)
		}
		for i := range 1000 {
			large := start(b, at(200, "large"))
			require.True(t, large.set(10*mib, true))
			phone := i % len(phones)
			phones[phone].release()
			phones[phone] = begin(t, b, at(byte(phone), "phone"), small)
			large.release()
		}
		for _, phone := range phones {
			require.False(t, phone.isOver)
		}
	})
}
