package main

import (
	"fmt"
	"net/http"
	"sync"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A network is an http.RoundTripper that knows where servers are. In a real
// P2P network this is Pinecone's or Yggdrasil's.
type network struct {
	mu        sync.Mutex
	addresses map[string]string
}

// deadAddress is one of this machine where nobody listens.
const deadAddress = "127.0.0.1:1"

func (n *network) place(server spec.ServerName, address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.addresses == nil {
		n.addresses = make(map[string]string)
	}
	n.addresses[string(server)] = address
}

// RoundTrip implements http.RoundTripper for matrix://server/path.
func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	n.mu.Lock()
	address, ok := n.addresses[r.URL.Host]
	n.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("no way to %s", r.URL.Host)
	}
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.Host = "http", address, r.URL.Host
	return loopback.RoundTrip(out)
}

// loopback goes straight to this machine, even if proxies are set.
var loopback = &http.Transport{}
