package main

import (
	"fmt"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/discovery"
)

// network is where this relay looks for other servers by their names: for their
// keys, and to pass mail on. It is nil where their keys aren't looked up.
func (o *options) network(strangers *strangers) *discovery.Transport {
	if o.keys == keysNone {
		return nil
	}
	return discovery.New(discovery.Options{Private: o.keys == keysAny, Permit: strangers.permit})
}

// roads are an http.RoundTripper to other servers: to addresses that the
// operator gives, else where Matrix servers are looked for.
type roads struct {
	at        addressTable
	plain     *http.Transport
	network   *discovery.Transport // or nil
	strangers *strangers
}

func newRoads(at addressTable, network *discovery.Transport, strangers *strangers) *roads {
	plain := &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: idleTimeout}
	return &roads{at, plain, network, strangers}
}

// RoundTrip implements http.RoundTripper for matrix://server/path.
func (r *roads) RoundTrip(request *http.Request) (*http.Response, error) {
	server := spec.ServerName(request.URL.Host)
	if address, ok := r.at[server]; ok {
		out := request.Clone(request.Context())
		out.URL.Scheme, out.URL.Host, out.Host = "http", address, string(server)
		return r.plain.RoundTrip(out)
	}
	if r.network == nil || isKeyName(server) {
		if request.Body != nil {
			_ = request.Body.Close() // as a RoundTripper must
		}
		return nil, fmt.Errorf("there is no way to %s without --at", server)
	}
	return r.network.RoundTrip(request.WithContext(r.strangers.visit(request.Context(), server)))
}
