package main

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

const (
	minGap       = time.Minute
	maxGap       = 24 * time.Hour
	maxAddresses = 10_000
	maxKnown     = 10_000
)

// strangers are destinations that nobody has named but the sender of some mail,
// which may name any host and port. Connections to an address in the name of
// strangers have growing gaps between them, for all names of strangers together.
// A server that the operator names, that has asked for its mail here or that
// takes mail that is passed on is none.
type strangers struct {
	mu    sync.Mutex
	known map[spec.ServerName]struct{}
	gaps  map[netip.Prefix]gap
}

// A gap is the time until an address is tried again.
type gap struct {
	until  time.Time
	length time.Duration
}

func newStrangers() *strangers {
	return &strangers{known: make(map[spec.ServerName]struct{}), gaps: make(map[netip.Prefix]gap)}
}

// meet says that a server is none.
func (s *strangers) meet(server spec.ServerName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.known[server]; !known {
		makeRoom(s.known, maxKnown)
		s.known[server] = struct{}{}
	}
}

// makeRoom forgets any of a map's keys if there are too many.
func makeRoom[K comparable, V any](m map[K]V, most int) {
	for key := range m {
		if len(m) < most {
			return
		}
		delete(m, key)
	}
}

// A visit is a request to a stranger, in its context.
type visit struct{ permitted map[netip.Prefix]struct{} } // under the lock of strangers

type visitKey struct{}

// visit returns the context for a request to a server.
func (s *strangers) visit(ctx context.Context, server spec.ServerName) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.known[server]; known {
		return ctx
	}
	return context.WithValue(ctx, visitKey{}, &visit{make(map[netip.Prefix]struct{})})
}

// permit is for discovery.Options. A visit may make several connections to one
// address.
func (s *strangers) permit(ctx context.Context, address netip.AddrPort) error {
	v, ok := ctx.Value(visitKey{}).(*visit)
	if !ok {
		return nil
	}
	host := hostOf(address.Addr())
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := v.permitted[host]; ok {
		return nil
	}
	now, last := time.Now(), s.gaps[host]
	if now.Before(last.until) {
		return fmt.Errorf("%s was tried for a server that isn't known, and is left alone for now", address.Addr())
	}
	if now.Sub(last.until) > maxGap {
		last.length = 0
	}
	makeRoom(s.gaps, maxAddresses)
	length := min(max(minGap, 2*last.length), maxGap)
	s.gaps[host] = gap{now.Add(length), length}
	v.permitted[host] = struct{}{}
	return nil
}

// hostOf is the range of one host: an IPv4 address, or a /64 of IPv6.
func hostOf(address netip.Addr) netip.Prefix {
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(address, bits).Masked()
}
