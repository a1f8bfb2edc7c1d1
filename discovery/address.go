package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// RoundTripAt makes a request, as RoundTrip does, at an address that is known otherwise: of
// the form https://host:port, without which the port is 443. The address may be a
// stranger's word: the same rules hold for it, and no redirect is followed.
//
// The server must have a certificate for its name, so that nobody can have its requests go
// to another. A name that no certificate can be for, such as a key in hex, is taken at its
// word: then the certificate must be for the address's host, and the one that gave the
// address decides where requests go.
func (t *Transport) RoundTripAt(r *http.Request, address string) (*http.Response, error) {
	to, err := targetAt(r.URL, address)
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // as a RoundTripper must
		}
		return nil, fmt.Errorf("discovery: %q at %q: %w", r.URL.Host, address, err)
	}
	return t.http.RoundTrip(aim(r, &attempt{}, to))
}

// targetAt is the target for a server at an address.
func targetAt(server *url.URL, address string) (target, error) {
	at, err := url.Parse(address)
	if err != nil {
		return target{}, err
	}
	if at.Hostname() == "" || address != "https://"+at.Host {
		return target{}, errors.New("an address is https:// and a host, and a port at most")
	}
	if server.Scheme != "matrix" {
		return target{}, fmt.Errorf("a URL with %q, not matrix", server.Scheme)
	}
	n, err := parse(server.Host)
	if err != nil {
		return target{}, err
	}
	port := at.Port()
	if port == "" {
		port = "443"
	}
	place := net.JoinHostPort(at.Hostname(), port)
	if !n.canBeCertified() {
		return target{endpoint: place, host: at.Host, addresses: []string{place}}, nil
	}
	return target{endpoint: net.JoinHostPort(n.host, port), host: n.full, addresses: []string{place}}, nil
}

// canBeCertified reports whether there can be a certificate for a name: whether it is an
// address, or a name of the DNS, whose parts have at most 63 letters.
func (n name) canBeCertified() bool {
	if _, err := netip.ParseAddr(n.host); err == nil {
		return true
	}
	for part := range strings.SplitSeq(n.host, ".") {
		if len(part) > 63 {
			return false
		}
	}
	return true
}

// aim returns a request that goes to a target, with an allowance of its own.
func aim(r *http.Request, a *attempt, to target) *http.Request {
	a.targets = to.addresses
	out := r.Clone(context.WithValue(r.Context(), attemptKey{}, a))
	out.URL.Scheme, out.URL.Host, out.Host = "https", to.endpoint, to.host
	return out
}
