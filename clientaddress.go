package relay

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/matrixrelay/relay/internal/address"
)

// RemoteAddress is the address at the other end of a request's connection: the default
// of Config.ClientAddress. It is the zero Addr if that is no IP address, as in Pinecone
// and at Unix sockets.
func RemoteAddress(r *http.Request) netip.Addr {
	a, _ := parseAddress(r.RemoteAddr)
	return a
}

// ProxiedAddress returns a Config.ClientAddress for a relay behind proxies, which put
// the address of their client into a header, such as X-Forwarded-For or X-Real-IP. If
// the header names several, they are read from the last on, past those of proxies.
// The header counts only in requests from one of the proxies: anyone else could write
// any address into it. The zero Prefix among them stands for all connections that have
// no IP address, such as those through a Unix socket.
func ProxiedAddress(header string, proxies ...netip.Prefix) func(*http.Request) netip.Addr {
	return func(r *http.Request) netip.Addr {
		client := RemoteAddress(r)
		if address.IsIn(client, proxies) {
			anyConnectionOf(r).isOfProxy() // also if it doesn't say whose this request is
		}
		rest := strings.Join(r.Header.Values(header), ",")
		for range maxProxies {
			if rest == "" || !address.IsIn(client, proxies) {
				break
			}
			end := strings.LastIndexByte(rest, ',')
			next, ok := parseAddress(strings.TrimSpace(rest[end+1:]))
			if !ok {
				break // a proxy that can't tell: its own address is the nearest that is known
			}
			client, rest = next, rest[:max(end, 0)]
		}
		return client
	}
}

// maxProxies bounds how many addresses of one header are read.
const maxProxies = 16

// parseAddress reads an IP address, with or without a port.
func parseAddress(text string) (netip.Addr, bool) {
	if both, err := netip.ParseAddrPort(text); err == nil {
		return both.Addr().Unmap().WithZone(""), true
	}
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return a.Unmap().WithZone(""), err == nil
}
