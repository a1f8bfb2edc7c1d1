package table

import (
	"net/netip"
	"sync"

	"github.com/matrixrelay/relay/internal/address"
)

// Addresses has something for each address that is in use: for an IPv4 address, for a
// /64 of IPv6 and for the /48 around it, for a whole overlay network. It is safe for
// concurrent use.
type Addresses[T any] struct {
	wide int
	make func(times int) *T // for so many times the share of one address

	mu    sync.Mutex
	sites *Table[netip.Prefix, *T]
	hosts *Table[netip.Prefix, *T] // /64s, of which one site has more than there is room for
}

// NewAddresses returns Addresses that remember so many sites and so many /64s. A site has
// wide times the share of an address; newOne makes the value.
func NewAddresses[T any](parties, wide int, newOne func(times int) *T) *Addresses[T] {
	return &Addresses[T]{
		wide: wide, make: newOne,
		sites: New[netip.Prefix, *T](parties), hosts: New[netip.Prefix, *T](parties),
	}
}

// Of returns the value of an address, and before it that of its site, if it is in one.
func (a *Addresses[T]) Of(addr netip.Addr) []*T {
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

func (a *Addresses[T]) find(in *Table[netip.Prefix, *T], key netip.Prefix, times int) *T {
	return in.Find(key, func() *T { return a.make(times) })
}
