package policy

import (
	"net/netip"
	"sync"

	"github.com/matrixrelay/relay/internal/address"
)

// addresses has something for each address that is in use: for an IPv4 address, for a
// /64 of IPv6 and for the /48 around it, for a whole overlay network. It is safe for
// concurrent use.
type addresses[T any] struct {
	wide int
	make func(times int) *T // for so many times the share of one address

	mu    sync.Mutex
	sites *table[netip.Prefix, *T]
	hosts *table[netip.Prefix, *T] // /64s, of which one site has more than there is room for
}

func newAddresses[T any](parties, wide int, newOne func(times int) *T) *addresses[T] {
	return &addresses[T]{
		wide: wide, make: newOne,
		sites: newTable[netip.Prefix, *T](parties), hosts: newTable[netip.Prefix, *T](parties),
	}
}

// of returns the value of an address, and before it that of its site, if it is in one.
func (a *addresses[T]) of(addr netip.Addr) []*T {
	from := address.Of(addr)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case from.Shared:
		return []*T{a.find(a.sites, from.Host, a.wide)}
	case from.Site != from.Host:
		return []*T{a.find(a.sites, from.Site, a.wide), a.find(a.hosts, from.Host, 1)}
	}
	return []*T{a.find(a.sites, from.Host, 1)}
}

func (a *addresses[T]) find(in *table[netip.Prefix, *T], key netip.Prefix, times int) *T {
	one, ok := in.get(key)
	if !ok {
		one = a.make(times)
		in.set(key, one)
	}
	return one
}
