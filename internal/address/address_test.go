package address_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/address"
)

func TestOf(t *testing.T) {
	for text, want := range map[string]struct {
		host, site string
		shared     bool
	}{
		"192.0.2.7":                 {"192.0.2.7/32", "192.0.2.7/32", false},
		"::ffff:192.0.2.7":          {"192.0.2.7/32", "192.0.2.7/32", false},
		"2a01:db8:1:2:3:4:5:6":      {"2a01:db8:1:2::/64", "2a01:db8:1::/48", false},
		"2a01:db8:1:2:3:4:5:6%eth0": {"2a01:db8:1:2::/64", "2a01:db8:1::/48", false},
		"200:1234::1":               {"200::/7", "200::/7", true},
		"3ff:ffff::1":               {"200::/7", "200::/7", true},
		"fc12::1":                   {"fc00::/8", "fc00::/8", true},
		"fe80::1%eth0":              {"fe80::/10", "fe80::/10", true},
		"2001:0:1:2::3":             {"2001::/32", "2001::/32", true},
		"127.0.0.1":                 {"127.0.0.0/8", "127.0.0.0/8", true},
		"127.9.9.9":                 {"127.0.0.0/8", "127.0.0.0/8", true},
		"::ffff:127.0.0.1":          {"127.0.0.0/8", "127.0.0.0/8", true},
		"::1":                       {"127.0.0.0/8", "127.0.0.0/8", true},
	} {
		got := address.Of(netip.MustParseAddr(text))
		require.Equal(t, want.host, got.Host.String(), text)
		require.Equal(t, want.site, got.Site.String(), text)
		require.Equal(t, want.shared, got.Shared, text)
	}
}

func TestNoAddressIsOneParty(t *testing.T) {
	none := address.Of(netip.Addr{})
	require.True(t, none.Shared)
	require.Equal(t, none, address.Of(netip.MustParseAddr("::")))
	require.Equal(t, "no address", none.String())
	require.Equal(t, "192.0.2.7", address.Of(netip.MustParseAddr("192.0.2.7")).String())
	require.Equal(t, "2a01:db8:1:2::/64", address.Of(netip.MustParseAddr("2a01:db8:1:2::1")).String())
}

func TestServersHaveAddressesOfTheirOwn(t *testing.T) {
	a := address.OfServer("a.example")
	require.Equal(t, a, address.OfServer("a.example"))
	require.NotEqual(t, a, address.OfServer("b.example"))
	require.NotEqual(t, a, address.Of(a.Host.Addr()), "nobody at an address of a network counts for it")
	require.Equal(t, a.Host, a.Site)
}
