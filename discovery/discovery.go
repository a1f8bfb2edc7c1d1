// Package discovery reaches Matrix servers by their names, as the section
// "Resolving server names" of the server-server API says, and nothing else: the
// names come from strangers. They must not be able to make this host connect to
// addresses in its own network, or do endless work.
//
// A Transport is an http.RoundTripper for URLs such as matrix://example.org/path.
// It fits fclient.WithTransport and client.CallerConfig.Transport. It also reaches servers
// at addresses that relay records give.
package discovery

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/matrixrelay/relay/internal/table"
)

// ErrPrivate says that a connection would have gone to an address that isn't
// public. It comes before the connection is made.
var ErrPrivate = errors.New("discovery: the address is not a public one")

var errTooManyAddresses = errors.New("discovery: too many addresses for one request")

const (
	dialTimeout   = 5 * time.Second
	lookupTimeout = 10 * time.Second
	idleTimeout   = time.Minute

	// maxSockets bounds the connections that are tried for one request, those
	// for looking up its server included.
	maxSockets = 12

	maxHeaderBytes = 64 << 10
)

// Options of a Transport. The zero value is for the public Internet.
type Options struct {
	// Private allows addresses that aren't public, too.
	Private bool

	// Permit, if it isn't nil, is asked before each connection, with the context
	// of the request; its error ends the attempt. It may be called by many
	// goroutines at once.
	Permit func(ctx context.Context, address netip.AddrPort) error

	// TLS has the certificates that are trusted. Nil: those of the system.
	TLS *tls.Config

	// Resolver looks names up. Nil: net.DefaultResolver.
	Resolver *net.Resolver
}

// A Transport makes connections to Matrix servers. It is safe for concurrent
// use, and bounds neither the time of a request, which its context does, nor the
// length of an answer. It follows no redirect, goes through no proxy, since that
// would look names up itself, and checks an address where the socket is made, so
// that a name that changes its address in between is of no use.
type Transport struct {
	options   Options
	dialer    net.Dialer
	http      *http.Transport
	wellKnown http.Client
	allowed   func(netip.AddrPort) bool
	ports     ports

	mu    sync.Mutex
	found *table.Table[string, found]
}

// ports are those of the specification; tests have others.
type ports struct{ wellKnown, federation string }

// New makes a Transport. Call CloseIdleConnections when it isn't needed any more.
func New(options Options) *Transport {
	if options.Resolver == nil {
		options.Resolver = net.DefaultResolver
	}
	t := &Transport{options: options, ports: ports{"443", "8448"}, found: table.New[string, found](maxFound)}
	t.allowed = func(to netip.AddrPort) bool { return options.Private || IsPublic(to.Addr()) }
	t.dialer = net.Dialer{Timeout: dialTimeout, Resolver: options.Resolver, ControlContext: t.control}
	t.http = t.transport(t.dialTargets)
	t.wellKnown = http.Client{Transport: t.transport(t.dialer.DialContext), CheckRedirect: t.checkRedirect, Timeout: lookupTimeout}
	return t
}

func (t *Transport) transport(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Transport {
	return &http.Transport{
		DialContext: dial, TLSClientConfig: t.options.TLS.Clone(), TLSHandshakeTimeout: dialTimeout, ForceAttemptHTTP2: true,
		MaxIdleConns: 256, MaxIdleConnsPerHost: 4, IdleConnTimeout: idleTimeout, MaxResponseHeaderBytes: maxHeaderBytes,
	}
}

// CloseIdleConnections closes connections that nobody uses.
func (t *Transport) CloseIdleConnections() {
	t.http.CloseIdleConnections()
	t.wellKnown.CloseIdleConnections()
}

// RoundTrip implements http.RoundTripper for matrix:// URLs.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	a := &attempt{}
	ctx := context.WithValue(r.Context(), attemptKey{}, a)
	to, err := t.find(ctx, r)
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // as a RoundTripper must
		}
		return nil, fmt.Errorf("discovery: %q: %w", r.URL.Host, err)
	}
	response, err := t.http.RoundTrip(aim(r, a, to))
	if err != nil {
		t.forget(r.URL.Host) // it may have moved
		return nil, err
	}
	return response, nil
}

// An attempt is the allowance of one request, in its context.
type attempt struct {
	targets []string
	sockets atomic.Int32
}

type attemptKey struct{}

// dialTargets connects to the first target of a request that can be reached. The
// address doesn't matter: it only tells services apart.
func (t *Transport) dialTargets(ctx context.Context, network, address string) (net.Conn, error) {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok || len(a.targets) == 0 {
		return nil, fmt.Errorf("discovery: nothing is known of %s", address)
	}
	var failed error
	for _, target := range a.targets {
		conn, err := t.dialer.DialContext(ctx, network, target)
		if err == nil {
			return conn, nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, failed
}

// control sees the address that a socket is about to be connected to.
func (t *Transport) control(ctx context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("discovery: %q is no address: %w", address, err)
	}
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if !t.allowed(to) {
		return fmt.Errorf("%w: %s", ErrPrivate, to)
	}
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok && a.sockets.Add(1) > maxSockets {
		return errTooManyAddresses
	}
	if t.options.Permit != nil {
		return t.options.Permit(ctx, to)
	}
	return nil
}
