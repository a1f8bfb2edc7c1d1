package relay

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/matrixrelay/relay/internal/address"
)

// maxDebtors bounds how many debts are remembered.
const maxDebtors = 10_000

// maxDebt is more than anybody can owe. A clock was set that shows a time past 2157, for
// which package time has no monotonic reading, if somebody does: that is forgiven.
const maxDebt = time.Hour

// debts are those of addresses, or names, for the work that they cause, as time: how
// long it takes until a debt is paid off by waiting. If there are too many, the least
// are forgotten.
type debts[K comparable] struct {
	mu     sync.Mutex
	paidBy map[K]time.Time // when it is paid off
}

func newDebts[K comparable]() *debts[K] { return &debts[K]{paidBy: make(map[K]time.Time)} }

func (d *debts[K]) owed(by K) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return rest(d.paidBy[by], time.Now())
}

// rest is how long it is until a debt is paid off.
func rest(until, now time.Time) time.Duration {
	if owed := until.Sub(now); owed <= maxDebt {
		return max(owed, 0)
	}
	return 0
}

// add charges somebody, or pays back if the cost is negative.
func (d *debts[K]) add(by K, cost time.Duration) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	until, owes := d.paidBy[by]
	owed := rest(until, now) + cost
	if owed <= 0 {
		delete(d.paidBy, by)
		return
	}
	if !owes && len(d.paidBy) >= maxDebtors {
		d.forget(now)
	}
	d.paidBy[by] = now.Add(owed)
}

// forget forgets half of the debtors: those that owe nothing any more, and those that
// owe least.
func (d *debts[K]) forget(now time.Time) {
	maps.DeleteFunc(d.paidBy, func(_ K, until time.Time) bool { return rest(until, now) == 0 })
	least := slices.SortedFunc(maps.Keys(d.paidBy), func(a, b K) int { return cmp.Compare(d.paidBy[a].UnixNano(), d.paidBy[b].UnixNano()) })
	for _, by := range least[:max(0, len(least)-maxDebtors/2)] {
		delete(d.paidBy, by)
	}
}

// addressDebts are debts of addresses. All of one site together may owe address.Wide times
// as much as one.
type addressDebts struct{ hosts, sites *debts[netip.Prefix] }

func newAddressDebts() addressDebts {
	return addressDebts{newDebts[netip.Prefix](), newDebts[netip.Prefix]()}
}

func (d addressDebts) owed(by address.From) time.Duration {
	return max(d.hosts.owed(by.Host), d.sites.owed(by.Site))
}

func (d addressDebts) add(by address.From, cost time.Duration) {
	d.hosts.add(by.Host, cost)
	if by.Site != by.Host {
		d.sites.add(by.Site, cost/address.Wide)
	}
}

// wholeSeconds is the time to wait, in seconds that are up by then.
func wholeSeconds(d time.Duration) time.Duration { return d.Truncate(time.Second) + time.Second }
