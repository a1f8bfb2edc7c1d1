package testnet

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A Virtual is a network in memory, for tests in simulated time: an
// http.RoundTripper that calls the handlers of its servers in the goroutine
// that asks. It is safe for concurrent use.
type Virtual struct {
	mu    sync.Mutex
	hosts map[spec.ServerName]Host
	asked map[spec.ServerName]int
}

// A Host is a server on a Virtual network. The zero value is one that refuses
// connections.
type Host struct {
	Handler http.Handler

	// Latency is how long a request is on its way, and its answer.
	Latency time.Duration

	// Hangs makes requests wait for the end of their context.
	Hangs bool

	// Lose, if it isn't nil, says what gets lost: the request, or the answer
	// to one that was served. Either is an error for who asks.
	Lose func() (request, answer bool)

	// Late, if it isn't nil, says how long after it got lost a request arrives
	// all the same, when nobody waits for its answer. Zero: never.
	Late func() time.Duration
}

// NewVirtual returns a network without servers.
func NewVirtual() *Virtual {
	return &Virtual{hosts: make(map[spec.ServerName]Host), asked: make(map[spec.ServerName]int)}
}

// Set puts a server on the network, or changes it.
func (v *Virtual) Set(server spec.ServerName, host Host) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.hosts[server] = host
}

// Host returns a server of the network.
func (v *Virtual) Host(server spec.ServerName) Host {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.hosts[server]
}

// Asked returns how many requests were made to a server.
func (v *Virtual) Asked(server spec.ServerName) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.asked[server]
}

// ask counts a request.
func (v *Virtual) ask(server spec.ServerName) Host {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked[server]++
	return v.hosts[server]
}

// RoundTrip implements http.RoundTripper.
func (v *Virtual) RoundTrip(r *http.Request) (*http.Response, error) {
	server := spec.ServerName(r.URL.Host)
	host := v.ask(server)
	var content []byte
	if r.Body != nil {
		defer func() { _ = r.Body.Close() }()
		var err error
		if content, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	if err := travel(r, host); err != nil {
		return nil, err
	}
	if host.Handler == nil {
		return nil, fmt.Errorf("testnet: %s: connection refused", server)
	}
	loseRequest, loseAnswer := false, false
	if host.Lose != nil {
		loseRequest, loseAnswer = host.Lose()
	}
	serve := func(ctx context.Context) *httptest.ResponseRecorder {
		in := r.Clone(ctx)
		in.Body = io.NopCloser(bytes.NewReader(content))
		out := httptest.NewRecorder()
		host.Handler.ServeHTTP(out, in)
		return out
	}
	if loseRequest {
		host.beLate(func() { serve(context.WithoutCancel(r.Context())) })
		return nil, fmt.Errorf("testnet: the request to %s was lost", server)
	}
	out := serve(r.Context())
	if err := travel(r, host); err != nil {
		return nil, err
	}
	if loseAnswer {
		return nil, fmt.Errorf("testnet: the answer of %s was lost", server)
	}
	return out.Result(), nil
}

// beLate serves a request that got lost, if it is to arrive after all.
func (h *Host) beLate(serve func()) {
	if h.Late == nil {
		return
	}
	if wait := h.Late(); wait > 0 {
		time.AfterFunc(wait, serve)
	}
}

// travel takes the time that one way takes.
func travel(r *http.Request, host Host) error {
	if host.Hangs {
		<-r.Context().Done()
		return r.Context().Err()
	}
	select {
	case <-time.After(host.Latency):
		return r.Context().Err()
	case <-r.Context().Done():
		return r.Context().Err()
	}
}
