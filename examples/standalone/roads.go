package main

import (
	"fmt"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// roads are an http.RoundTripper to other servers: to addresses that the
// operator gives, else where Matrix servers are looked for.
type roads struct {
	at    addressTable
	plain *http.Transport
	found *fclient.Client // or nil
}

// newRoads looks for servers where their keys are looked up.
func newRoads(at addressTable, whose string) *roads {
	r := &roads{at: at, plain: &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: idleTimeout}}
	if whose != keysNone {
		// Who calls has time-outs. (fclient follows redirects, but within the
		// same networks, and what is passed on is checked where it ends.)
		r.found = fclient.NewClient(append(networkOptions(whose), fclient.WithTimeout(0), fclient.WithKeepAlives(true))...)
	}
	return r
}

// RoundTrip implements http.RoundTripper for matrix://server/path.
func (r *roads) RoundTrip(request *http.Request) (*http.Response, error) {
	server := spec.ServerName(request.URL.Host)
	if address, ok := r.at[server]; ok {
		out := request.Clone(request.Context())
		out.URL.Scheme, out.URL.Host, out.Host = "http", address, string(server)
		return r.plain.RoundTrip(out)
	}
	if r.found == nil || isKeyName(server) {
		if request.Body != nil {
			_ = request.Body.Close() // as a RoundTripper must
		}
		return nil, fmt.Errorf("there is no way to %s without -at", server)
	}
	return r.found.DoHTTPRequest(request.Context(), request)
}
