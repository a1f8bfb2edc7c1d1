// Package address says which network addresses belong together when limits count
// them: those that one party can have for nothing.
package address

import (
	"crypto/sha256"
	"net/netip"
	"slices"
)

// Wide is how many addresses those of one site count as together: a /48 of IPv6 costs
// hardly more than an address and has 65,536 of them, but phones share one, too.
const Wide = 16

// From is where a request came from. It is comparable, and the zero value is where
// there is no IP address.
type From struct {
	// Host is that of one machine or household: an IPv4 address, or a /64 of IPv6.
	// For an overlay network, where addresses cost nothing, it is the whole network.
	// It is the zero Prefix if there is no IP address, as in Pinecone and at Unix sockets.
	Host netip.Prefix

	// Site is the network that one customer of a provider may have: a /48 of IPv6.
	// Otherwise it is Host.
	Site netip.Prefix

	// Shared says that Host is a network, loopback or nothing, where many parties may
	// be that can't be told apart.
	Shared bool
}

// OfServer is where a server counts that is known whatever address it comes from: as if
// it were at an address of its own, which no address of a network counts as.
func OfServer(name string) From {
	hash := sha256.Sum256([]byte(name))
	own := netip.PrefixFrom(netip.AddrFrom16([16]byte(hash[:16])), 128)
	return From{Host: own, Site: own}
}

// String is the Host, or says that there is no address.
func (f From) String() string {
	if !f.Host.IsValid() {
		return "no address"
	}
	if f.Host.IsSingleIP() {
		return f.Host.Addr().String()
	}
	return f.Host.String()
}

var loopback = netip.MustParsePrefix("127.0.0.0/8") // and ::1

// overlays are networks in which addresses cost nothing.
var overlays = []netip.Prefix{
	netip.MustParsePrefix("200::/7"),   // Yggdrasil
	netip.MustParsePrefix("fc00::/8"),  // cjdns
	netip.MustParsePrefix("fe80::/10"), // this link
	netip.MustParsePrefix("2001::/32"), // Teredo: the address names any server
	loopback,
}

// IsIn reports whether an address is in one of the networks. The zero Prefix has the
// zero Addr.
func IsIn(a netip.Addr, networks []netip.Prefix) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool {
		return n.Contains(a) || !n.IsValid() && !a.IsValid()
	})
}

// Of sorts an address. IPv4 in IPv6 is IPv4.
func Of(a netip.Addr) From {
	a = a.Unmap().WithZone("")
	if !a.IsValid() || a.IsUnspecified() {
		return From{Shared: true}
	}
	if a.IsLoopback() {
		a = loopback.Addr()
	}
	for _, network := range overlays {
		if network.Contains(a) {
			return From{Host: network, Site: network, Shared: true}
		}
	}
	if a.Is4() {
		host := netip.PrefixFrom(a, a.BitLen())
		return From{Host: host, Site: host}
	}
	return From{Host: netip.PrefixFrom(a, 64).Masked(), Site: netip.PrefixFrom(a, 48).Masked()}
}
