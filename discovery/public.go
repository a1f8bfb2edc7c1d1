package discovery

import "net/netip"

// notPublic are the networks inside of 2000::/3 and of IPv4 that are private,
// local to a host or a link, tunnels into such, for documentation or for many
// receivers (IANA's registries of special-purpose addresses).
var notPublic = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
	"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"2001::/23", // Teredo and other protocols
	"2001:db8::/32",
	"2002::/16", // 6to4
	"3fff::/20",
)

// global is all that is public of IPv6, apart from those above. Outside of it
// are loopback, link-local, unique local, multicast and NAT64 addresses, and
// those of Yggdrasil.
var global = netip.MustParsePrefix("2000::/3")

func prefixes(list ...string) (all []netip.Prefix) {
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

// IsPublic reports whether an address belongs to a host in the public Internet,
// and to no other network through a tunnel or a translation.
func IsPublic(address netip.Addr) bool {
	if !address.IsValid() || address.Zone() != "" {
		return false
	}
	address = address.Unmap()
	if address.Is6() && !global.Contains(address) {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(address) {
			return false
		}
	}
	return true
}
