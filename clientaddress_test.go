package relay_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
)

func TestRemoteAddress(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.7:1234":          "192.0.2.7",
		"[::ffff:192.0.2.7]:1234": "192.0.2.7",
		"[2a01:db8::1%eth0]:1234": "2a01:db8::1",
		"192.0.2.7":               "192.0.2.7",
		"@":                       "",
		"":                        "",
		strings.Repeat("ab", 32):  "", // Pinecone
	} {
		got := relay.RemoteAddress(&http.Request{RemoteAddr: remote, Header: http.Header{"X-Forwarded-For": {"198.51.100.1"}}})
		require.Equal(t, want == "", !got.IsValid(), remote)
		if want != "" {
			require.Equal(t, want, got.String(), remote)
		}
	}
}

func TestProxiedAddress(t *testing.T) {
	proxied := relay.ProxiedAddress("X-Forwarded-For", netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	socket := relay.ProxiedAddress("X-Forwarded-For", netip.Prefix{})
	for name, c := range map[string]struct {
		remote  string
		header  []string
		address func(*http.Request) netip.Addr
		want    string
	}{
		"through a proxy":       {"10.0.0.1:1", []string{"198.51.100.1"}, proxied, "198.51.100.1"},
		"with a port":           {"10.0.0.1:1", []string{"198.51.100.1:77"}, proxied, "198.51.100.1"},
		"IPv6 in brackets":      {"[::1]:1", []string{"[2a01:db8::1]"}, proxied, "2a01:db8::1"},
		"IPv6 with a port":      {"[::1]:1", []string{"[2a01:db8::1]:77"}, proxied, "2a01:db8::1"},
		"a client that invents": {"10.0.0.1:1", []string{"203.0.113.9, 198.51.100.1"}, proxied, "198.51.100.1"},
		"in two lines":          {"10.0.0.1:1", []string{"203.0.113.9", "198.51.100.1"}, proxied, "198.51.100.1"},
		"through two proxies":   {"10.0.0.1:1", []string{"198.51.100.1, 10.0.0.2"}, proxied, "198.51.100.1"},
		"only proxies":          {"10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, proxied, "10.0.0.3"},
		"no header":             {"10.0.0.1:1", nil, proxied, "10.0.0.1"},
		"a header of a comma":   {"10.0.0.1:1", []string{","}, proxied, "10.0.0.1"},
		"unknown":               {"10.0.0.1:1", []string{"198.51.100.1, unknown"}, proxied, "10.0.0.1"},
		"not from a proxy":      {"192.0.2.7:1", []string{"198.51.100.1"}, proxied, "192.0.2.7"},
		"a socket":              {"@", []string{"198.51.100.1"}, socket, "198.51.100.1"},
		"not from a socket":     {"192.0.2.7:1", []string{"198.51.100.1"}, socket, "192.0.2.7"},
	} {
		got := c.address(&http.Request{RemoteAddr: c.remote, Header: http.Header{"X-Forwarded-For": c.header}})
		require.Equal(t, c.want, got.String(), name)
	}
	require.False(t, proxied(&http.Request{RemoteAddr: "@", Header: http.Header{"X-Forwarded-For": {"198.51.100.1"}}}).IsValid())
}

// A header as long as a server allows costs little to read.
func TestProxiedAddressReadsOnlySoMany(t *testing.T) {
	proxied := relay.ProxiedAddress("X-Forwarded-For", netip.MustParsePrefix("10.0.0.0/8"))
	long := "198.51.100.1" + strings.Repeat(", 10.0.0.2", 17)
	require.Equal(t, "10.0.0.2", proxied(&http.Request{RemoteAddr: "10.0.0.1:1", Header: http.Header{"X-Forwarded-For": {long}}}).String())
}
