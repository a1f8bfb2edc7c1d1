package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// An AddressTransport reaches a server at an address that a relay record gives.
type AddressTransport interface {
	// RoundTripAt makes a request as an http.RoundTripper does, for matrix://server/path, at
	// an address of the form https://host:port, which may be a stranger's word. It follows
	// no redirect, connects to no address of a private network, and demands a certificate.
	// Package discovery has one.
	RoundTripAt(request *http.Request, address string) (*http.Response, error)
}

// A path is how a request may go to a relay, in its context.
type path struct {
	relay     spec.ServerName
	addresses []string      // if it can't be reached by its name
	hold      time.Duration // for how long the answer may be held
	taken     string        // the address by which it went
}

type pathKey struct{}

// withAddresses has requests to a relay go to its addresses if they don't reach it by its
// name.
func withAddresses(ctx context.Context, relay spec.ServerName, addresses []string) (context.Context, *path) {
	p := &path{relay: relay, addresses: addresses}
	return context.WithValue(ctx, pathKey{}, p), p
}

// toward adds the addresses of a relay to the context of a request about a server's mail,
// unless it has them already.
func (c *Caller) toward(ctx context.Context, about, relay spec.ServerName) context.Context {
	if c.addresses == nil || ctx.Value(pathKey{}) != nil {
		return ctx
	}
	ctx, _ = withAddresses(ctx, relay, c.addresses(about, relay))
	return ctx
}

// errSlow says that half of the time has passed without an answer, which leaves the other
// half to the addresses.
var errSlow = errors.New("client: no answer in time")

// exchange sends a request: by its server's name, and if that brings no answer, to the
// addresses of its path. While a name is known not to work, these come first.
func (c *Caller) exchange(request *http.Request) (*http.Response, error) {
	p, _ := request.Context().Value(pathKey{}).(*path)
	if p == nil || len(p.addresses) == 0 || c.config.Addresses == nil {
		return c.client.Do(request)
	}
	var failed error
	byName := c.nameless.wait(p.relay) == 0
	if byName {
		response, err := c.byName(request, p)
		if err == nil {
			c.nameless.succeeded(p.relay)
			return response, nil
		}
		failed = err
	}
	for _, address := range p.addresses {
		if request.Context().Err() != nil {
			break
		}
		response, err := c.at(request, address)
		if err == nil {
			p.taken = address
			if byName {
				c.nameless.failed(p.relay, 0)
			}
			return response, nil
		}
		failed = errors.Join(failed, err)
	}
	if failed == nil { // the request ended before anything was tried
		return nil, context.Cause(request.Context())
	}
	c.nameless.succeeded(p.relay) // it is no worse than the addresses
	return nil, failed
}

// byName sends a request by its server's name, in half of the time that there is.
func (c *Caller) byName(request *http.Request, p *path) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(request.Context())
	if end, ok := ctx.Deadline(); ok {
		slow := time.AfterFunc(p.hold+(time.Until(end)-p.hold)/2, func() { cancel(errSlow) })
		defer slow.Stop()
	}
	out, err := renewed(request.WithContext(ctx))
	if err == nil {
		var response *http.Response
		if response, err = c.client.Do(out); err == nil {
			response.Body = endingBody{response.Body, cancel}
			return response, nil
		}
	}
	cancel(nil)
	return nil, err
}

// endingBody ends a context when it is closed.
type endingBody struct {
	io.ReadCloser
	end context.CancelCauseFunc
}

func (b endingBody) Close() error {
	defer b.end(nil)
	return b.ReadCloser.Close()
}

// at sends a request to an address of its server.
func (c *Caller) at(request *http.Request, address string) (*http.Response, error) {
	out, err := renewed(request)
	if err != nil {
		return nil, err
	}
	response, err := c.config.Addresses.RoundTripAt(out, address)
	if err != nil {
		return nil, fmt.Errorf("at %s: %w", address, err)
	}
	return response, nil
}

// renewed returns the request with a body of its own.
func renewed(request *http.Request) (*http.Request, error) {
	out := request.Clone(request.Context())
	if request.GetBody == nil {
		return out, nil
	}
	body, err := request.GetBody()
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	out.Body = body
	return out, nil
}
