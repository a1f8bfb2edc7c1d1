package policy_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/wire"
)

func TestRequestsOfAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := policy.NewLimits(policy.LimitsConfig{
			Address: policy.Shares{Requests: policy.Rate{PerSecond: 0.5, Burst: 10}}, Name: policy.Shares{Requests: policy.Unlimited},
		})
		for i := range 10 {
			require.NoError(t, put("192.0.2.1", spec.ServerName(fmt.Sprint("a", i)), "b", 10).run(t, l))
		}
		wait := requireStatus(t, 429, put("192.0.2.1", "new", "b", 10).run(t, l))
		require.Equal(t, 2*time.Second, wait)
		require.NoError(t, put("192.0.2.2", "a1", "b", 10).run(t, l), "another address has its own")
		time.Sleep(wait)
		require.NoError(t, put("192.0.2.1", "new", "b", 10).run(t, l))
		requireStatus(t, 429, put("192.0.2.1", "new", "b", 10).run(t, l))
	})
}

// Refused at the first stage: before anything is read.
func TestOverShareIsRefusedOnArrival(t *testing.T) {
	l := policy.NewLimits(policy.LimitsConfig{Address: policy.Shares{Requests: policy.Rate{PerSecond: 1e-6, Burst: 1}}})
	require.NoError(t, get("192.0.2.1", "a").run(t, l))
	r, err := get("192.0.2.1", "a").begin(t, l)
	requireStatus(t, 429, err)
	require.Equal(t, policy.Arrived, r.Stage)
}

func TestBytesAndStoredArePaidAfterwards(t *testing.T) {
	rate := policy.Rate{PerSecond: 1000, Burst: 10_000}
	for name, shares := range map[string]policy.Shares{"bytes": {Bytes: rate}, "stored": {Stored: rate}} {
		synctest.Test(t, func(t *testing.T) {
			l := policy.NewLimits(policy.LimitsConfig{Address: shares})
			require.NoError(t, put("192.0.2.1", "a", "b", 29_000).run(t, l), name)
			wait := requireStatus(t, 429, put("192.0.2.1", "a", "b", 1).run(t, l))
			require.InDelta(t, 19.5, wait.Seconds(), 0.6, name)
			time.Sleep(wait)
			require.NoError(t, put("192.0.2.1", "a", "b", 1).run(t, l), name)
		})
	}
}

// Stored bytes count for PUTs only: an owner may fetch however much its address stored.
func TestStoringDoesNotHoldUpFetching(t *testing.T) {
	rate := policy.Rate{PerSecond: 1, Burst: 1000}
	l := policy.NewLimits(policy.LimitsConfig{Address: policy.Shares{Stored: rate}, Name: policy.Shares{Stored: rate}})
	require.NoError(t, put("192.0.2.1", "a", "b", 5000).run(t, l))
	requireStatus(t, 429, put("192.0.2.1", "c", "b", 1).run(t, l))
	requireStatus(t, 429, put("192.0.2.2", "a", "b", 1).run(t, l))
	require.NoError(t, get("192.0.2.1", "a").run(t, l))
}

// A name counts only once it has signed: nobody can use up another's share.
func TestNamesCountOnlySigned(t *testing.T) {
	l := policy.NewLimits(policy.LimitsConfig{Name: policy.Shares{Requests: policy.Rate{PerSecond: 1e-6, Burst: 5}}})
	for range 100 { // by a stranger, up to the signature
		r := &policy.Request{Endpoint: wire.SendRelay, Origin: "a", Destination: "b"}
		require.NoError(t, l.Admit(t.Context(), r))
		r.Stage = policy.Claimed
		require.NoError(t, l.Admit(t.Context(), r))
		r.Done(policy.Used{})
	}
	for i := range 5 {
		require.NoError(t, put(fmt.Sprint("192.0.2.", i), "a", "b", 10).run(t, l))
	}
	requireStatus(t, 429, put("192.0.2.77", "a", "b", 10).run(t, l))
	require.NoError(t, put("192.0.2.77", "c", "b", 10).run(t, l))
}

// Mail that is sent again stores nothing, and costs the server nothing that has signed
// it: its destination, which has the proof, could use up the share.
func TestRepeatsOfMailCostItsSenderNothing(t *testing.T) {
	one := policy.Rate{PerSecond: 1e-6, Burst: 1}
	l := policy.NewLimits(policy.LimitsConfig{Name: policy.Shares{Requests: one, Bytes: one, Stored: one}})
	for i := range 100 {
		r, err := put(fmt.Sprint("192.0.2.", i), "a", "b", 10).begin(t, l)
		require.NoError(t, err)
		r.Done(policy.Used{Received: 10})
	}
	require.NoError(t, put("198.51.100.1", "a", "b", 10).run(t, l))
	requireStatus(t, 429, put("198.51.100.2", "a", "b", 10).run(t, l))
}

// Requests that one /64 was refused cost its /48 nothing.
func TestRefusedRequestsCostASiteNothing(t *testing.T) {
	l := policy.NewLimits(policy.LimitsConfig{Address: policy.Shares{Requests: policy.Rate{PerSecond: 1e-6, Burst: 2}}, Wide: 2})
	for range 100 {
		_ = get("2a01:db8:1:2::1", "a").run(t, l)
	}
	require.NoError(t, get("2a01:db8:1:3::1", "b").run(t, l))
}

func TestUnderWay(t *testing.T) {
	l := policy.NewLimits(policy.LimitsConfig{Address: policy.Shares{UnderWay: 2}})
	first, err := put("192.0.2.1", "a", "b", 10).begin(t, l)
	require.NoError(t, err)
	second, err := put("192.0.2.1", "a", "b", 10).begin(t, l)
	require.NoError(t, err)
	third, err := put("192.0.2.1", "a", "b", 10).begin(t, l)
	requireStatus(t, 429, err)
	third.Done(policy.Used{})
	require.NoError(t, get("192.0.2.1", "a").run(t, l), "requests that may wait don't count")
	require.NoError(t, put("192.0.2.2", "a", "b", 10).run(t, l))
	second.Done(policy.Used{})
	second.Done(policy.Used{}) // once more changes nothing
	require.NoError(t, put("192.0.2.1", "a", "b", 10).run(t, l))
	first.Done(policy.Used{})
}

// All of a /48 have 16 times the share of a /64, and so have all of an overlay.
func TestWide(t *testing.T) {
	for name, c := range map[string]struct {
		address func(i int) string
		want    int
	}{
		"one /64":    {func(i int) string { return fmt.Sprintf("2a01:db8:1:2::%x", i) }, 10},
		"one /48":    {func(i int) string { return fmt.Sprintf("2a01:db8:1:%x::1", i) }, 160},
		"Yggdrasil":  {func(i int) string { return fmt.Sprintf("200:%x::1", i) }, 160},
		"no address": {func(int) string { return "" }, 160},
		"loopback":   {func(i int) string { return fmt.Sprintf("127.0.0.%d", i%250+1) }, 160},
		"IPv4":       {func(i int) string { return fmt.Sprintf("192.0.%d.%d", i/250, i%250) }, 1000},
	} {
		l := policy.NewLimits(policy.LimitsConfig{
			Address: policy.Shares{Requests: policy.Rate{PerSecond: 1e-6, Burst: 10}}, Name: policy.Shares{Requests: policy.Unlimited},
		})
		admitted := 0
		for i := range 1000 {
			if get(c.address(i), "a").run(t, l) == nil {
				admitted++
			}
		}
		require.Equal(t, c.want, admitted, name)
	}
}

// On the connection of a member its own share counts, not that of its address, which
// others may use up.
func TestKnownConnection(t *testing.T) {
	l := policy.NewLimits(policy.LimitsConfig{
		Address: policy.Shares{Requests: policy.Rate{PerSecond: 1e-6, Burst: 1}, UnderWay: 1},
		Name:    policy.Shares{Requests: policy.Rate{PerSecond: 1e-6, Burst: 5}},
	})
	require.NoError(t, get("192.0.2.1", "flood").run(t, l))
	requireStatus(t, 429, get("192.0.2.1", "phone").run(t, l))
	phone := get("192.0.2.1", "phone")
	phone.known = "phone"
	for range 5 {
		require.NoError(t, phone.run(t, l))
	}
	requireStatus(t, 429, phone.run(t, l))
}

// However many mailboxes an address has claimed, its members together have sixteen times
// its share; ten phones behind a NAT have theirs.
func TestMembersOfOneAddress(t *testing.T) {
	l := policy.NewLimits(policy.LimitsConfig{
		Address: policy.Shares{Requests: policy.Rate{PerSecond: 1e-6, Burst: 5}},
		Name:    policy.Shares{Requests: policy.Rate{PerSecond: 1e-6, Burst: 5}},
	})
	run := func(address string, i int) error {
		member := get(address, spec.ServerName(fmt.Sprint("member", i)))
		member.known = member.origin
		return member.run(t, l)
	}
	for i := range 10 * 5 {
		require.NoError(t, run("192.0.2.1", i%10))
	}
	for i := range 6 * 5 {
		require.NoError(t, run("192.0.2.1", 10+i))
	}
	requireStatus(t, 429, run("192.0.2.1", 100))
	require.NoError(t, run("192.0.2.2", 100))
	require.NoError(t, get("192.0.2.1", "stranger").run(t, l), "the others have the share of the address")
}

func TestUnlimited(t *testing.T) {
	none := policy.Shares{Requests: policy.Unlimited, Bytes: policy.Unlimited, Stored: policy.Unlimited, UnderWay: -1}
	l := policy.NewLimits(policy.LimitsConfig{Address: none, Name: none})
	for range 10_000 {
		require.NoError(t, put("192.0.2.1", "a", "b", 1<<30).run(t, l))
	}
}

// A cost of many bursts takes no longer to count than a small one.
func TestCostOfManyBursts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := policy.NewLimits(policy.LimitsConfig{
			Address: policy.Shares{Bytes: policy.Rate{PerSecond: 1 << 40, Burst: 1}}, Name: policy.Shares{Bytes: policy.Unlimited},
		})
		costly := get("192.0.2.1", "a")
		costly.bytes = 60 << 40
		require.NoError(t, costly.run(t, l))
		wait := requireStatus(t, 429, get("192.0.2.1", "a").run(t, l))
		require.InDelta(t, 60, wait.Seconds(), 1)
		time.Sleep(wait)
		require.NoError(t, get("192.0.2.1", "a").run(t, l))
	})
}

// Bursts that are as good as no limit are none for many either.
func TestLargestBurst(t *testing.T) {
	most := policy.Rate{PerSecond: 1, Burst: math.MaxInt}
	l := policy.NewLimits(policy.LimitsConfig{Address: policy.Shares{Requests: most, Bytes: most, Stored: most, UnderWay: math.MaxInt}})
	for range 20 {
		require.NoError(t, put("", "a", "b", 1000).run(t, l))
	}
}

// With random requests of many parties in any order, none gets more than its share, and
// one that uses half of it is never refused. The least used are forgotten.
func TestRandomShares(t *testing.T) {
	seeds.Each(t, "RELAY_POLICY_SEED", "RELAY_POLICY_RUNS", 3, func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) { randomShares(t, rand.New(rand.NewPCG(seed, 0))) })
	})
}

func randomShares(t *testing.T, random *rand.Rand) {
	const perSecond, burst, floods = 2, 20, 5
	l := policy.NewLimits(policy.LimitsConfig{
		Address: policy.Shares{Requests: policy.Rate{PerSecond: perSecond, Burst: burst}},
		Name:    policy.Shares{Requests: policy.Unlimited}, Parties: 50,
	})
	admitted := make(map[string]int)
	begin, honest := time.Now(), 0
	for range 5000 {
		time.Sleep(time.Duration(random.Int64N(int64(20 * time.Millisecond))))
		flood := fmt.Sprint("192.0.2.", random.IntN(floods))
		if get(flood, spec.ServerName(fmt.Sprint("n", random.Int()))).run(t, l) == nil {
			admitted[flood]++
		}
		if due := int(time.Since(begin).Seconds() * perSecond / 2); honest < due {
			honest++
			require.NoError(t, get("198.51.100.1", "honest").run(t, l))
		}
	}
	require.Greater(t, honest, 10)
	most := burst + int(time.Since(begin).Seconds()*perSecond) + 1
	for flood, n := range admitted {
		require.LessOrEqual(t, n, most, flood)
		require.Greater(t, n, most/2, flood)
	}
}

// A stranger with many addresses can have old ones forgotten, but no memory grows.
func TestPartiesAreBounded(t *testing.T) {
	l := policy.NewLimits(policy.LimitsConfig{Address: policy.Shares{Requests: policy.Rate{PerSecond: 1e-6, Burst: 1}}, Parties: 10})
	require.NoError(t, get("192.0.2.1", "a").run(t, l))
	for i := range 9 {
		require.NoError(t, get(fmt.Sprint("198.51.100.", i), "a").run(t, l))
		requireStatus(t, 429, get("192.0.2.1", "a").run(t, l))
	}
	for i := range 10 {
		require.NoError(t, get(fmt.Sprint("203.0.113.", i), "a").run(t, l))
	}
	require.NoError(t, get("192.0.2.1", "a").run(t, l), "it was the least used")
}

// A stranger that has one /48 can't have others forgotten.
func TestSiteForgetsNobodyElse(t *testing.T) {
	l := policy.NewLimits(policy.LimitsConfig{Address: policy.Shares{Requests: policy.Rate{PerSecond: 1e-6, Burst: 1}}, Wide: 2, Parties: 10})
	for _, address := range []string{"192.0.2.1", "2a01:db8:1:1::1", "2a01:db8:1:2::1"} {
		require.NoError(t, get(address, "a").run(t, l))
	}
	for i := range 20 {
		_ = get(fmt.Sprintf("2a01:db8:2:%x::1", i), "b").run(t, l)
	}
	requireStatus(t, 429, get("192.0.2.1", "a").run(t, l))
	requireStatus(t, 429, get("2a01:db8:1:3::1", "a").run(t, l))
}
