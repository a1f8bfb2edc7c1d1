package client

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

const (
	// agreementLasts is how long it is before a relay is asked again whether it agrees
	// to take a server's mail.
	agreementLasts = 24 * time.Hour

	// askedEvery is how often one is asked at most: about one server, and about any
	// while it hasn't shown that it is a relay at all. A record may name anybody.
	askedEvery = time.Hour

	// silentFirst is how long one is left alone that didn't answer; it gets longer.
	silentFirst = 5 * time.Minute

	// maxSteps bounds how many records are followed at once, each to the relays that
	// the next one names.
	maxSteps = 8

	// maxWanted bounds the servers and the hints that wait.
	maxWanted = 10_000

	// scouts is how many servers are looked for at once.
	scouts = 8
)

// want says that mail waits which may be left at relays of a server. It finds out which
// have agreed, if that isn't known; then Peers is told.
func (b *book) want(server spec.ServerName) {
	if b == nil || server == b.self {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pages[server]
	if p == nil || p.record == nil || len(b.todo.wanted) >= maxWanted {
		return
	}
	now := time.Now()
	for _, relay := range p.record.Relays {
		isAsked := now.Sub(b.todo.asked[pair{relay.Name, server}]) < askedEvery
		if relay.Name != b.self && !isAsked && p.isDue(relay.Name, now) {
			b.todo.wanted[server] = struct{}{}
			b.todo.awake()
			return
		}
	}
}

// isDue reports whether a relay is to be asked whether it agrees.
func (p *page) isDue(relay spec.ServerName, now time.Time) bool {
	at, agreed := p.Agreed[relay]
	since := now.Sub(time.Unix(at, 0))
	return !agreed || since >= agreementLasts || since < 0
}

// hint says that a relay which took mail for a server has a record of it with that
// number.
func (b *book) hint(relay, server spec.ServerName, seq uint64) {
	if b == nil || seq == 0 || server == b.self {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.pages[server]; p != nil && p.record != nil && p.record.Seq >= seq || len(b.todo.hints) >= maxWanted {
		return
	}
	b.todo.hints[pair{relay, server}] = seq
	b.todo.awake()
}

// A scout asks relays for records, for a book.
type scout struct {
	book   *book
	caller *Caller
}

// look finds out all that is wanted, and whether hints are true. After a failure it is
// wanted again.
func (s *scout) look(ctx context.Context, wanted map[spec.ServerName]struct{}, hints map[pair]uint64) {
	var all sync.WaitGroup
	defer all.Wait()
	places := make(chan struct{}, scouts)
	do := func(look func()) {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			if ctx.Err() == nil {
				look()
			}
		})
	}
	for server := range wanted {
		do(func() { s.follow(ctx, server) })
	}
	for p, seq := range hints {
		do(func() { s.check(ctx, p, seq) })
	}
}

// follow asks the relays of a server whether they agree. A newer record that one of them
// has is followed.
func (s *scout) follow(ctx context.Context, server spec.ServerName) {
	for range maxSteps {
		p := s.book.page(server)
		if p.record == nil || !s.askAll(ctx, server, p) {
			return
		}
	}
}

// askAll asks the relays in a record, and reports whether one of them has a newer one.
func (s *scout) askAll(ctx context.Context, server spec.ServerName, p *page) (newer bool) {
	var all sync.WaitGroup
	for _, relay := range p.record.Relays {
		if relay.Name == s.book.self || !p.isDue(relay.Name, time.Now()) {
			continue
		}
		if host := hostOf(relay.Name); s.book.todo.silent.wait(host) > 0 {
			s.book.fails(server, host)
			continue
		}
		addresses, may := s.mayAsk(pair{relay.Name, server}, relay.At)
		if !may {
			continue
		}
		all.Go(func() { s.askAt(ctx, pair{relay.Name, server}, addresses, p.record) })
	}
	all.Wait()
	return s.book.page(server).record != p.record
}

// mayAsk reports whether a relay may be asked about a server, and at which of its addresses.
func (s *scout) mayAsk(p pair, at []string) (addresses []string, may bool) {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	now := time.Now()
	if !s.book.todo.mayAsk(p, now) {
		return nil, false
	}
	for _, address := range at {
		if hostAt(address) == hostOf(p.relay) || s.book.todo.mayReachAt(address, now) {
			addresses = append(addresses, address)
		}
	}
	return addresses, true
}

// askAt asks a relay by its name, or at addresses.
func (s *scout) askAt(ctx context.Context, p pair, addresses []string, known *wire.RelayRecord) {
	pathCtx, path := withAddresses(ctx, p.relay, addresses)
	err := s.ask(pathCtx, p, path, known)
	switch host := hostOf(p.relay); {
	case ctx.Err() != nil: // it may not have come to the relay
		s.unask(p, addresses)
	case errors.As(err, new(unanswered)):
		s.book.todo.silent.failed(host, 0)
		for _, address := range addresses {
			s.book.todo.silent.failed(silentAt(address), 0)
		}
		s.unask(p, addresses)
		s.book.fails(p.destination, host)
	default:
		s.book.todo.silent.succeeded(host)
	}
}

// unask forgets that a relay was asked.
func (s *scout) unask(p pair, addresses []string) {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	delete(s.book.todo.asked, p)
	delete(s.book.todo.hosts, hostOf(p.relay))
	for _, address := range addresses {
		delete(s.book.todo.hosts, hostAt(address))
	}
	delete(s.book.todo.hinted, p.relay)
}

// prove notes that a relay, and the address by which it was asked, is a relay.
func (s *scout) prove(p pair, way *path) {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	host := hostOf(p.relay)
	if way.taken != "" {
		host = hostAt(way.taken)
		s.book.todo.silent.succeeded(silentAt(way.taken))
	}
	note(s.book.todo.proven, host, time.Now())
}

// ask asks one relay for a server's record, and brings it the one that is known if that is
// newer. A relay that shows none, or one that doesn't name it, doesn't agree. An error is
// that of asking.
func (s *scout) ask(ctx context.Context, p pair, way *path, known *wire.RelayRecord) error {
	got, err := s.caller.RelayRecord(ctx, p.relay, p.destination)
	asking := err
	if err == nil {
		err = got.Check(ctx, s.book.keys, time.Now())
	}
	if err != nil {
		if refuses(err) {
			s.note(ctx, p, way, false)
		}
		return asking
	}
	s.prove(p, way)
	err = s.book.take(ctx, got, true) // also an older one, if the key of the other is withdrawn
	switch {
	case err != nil && !errors.Is(err, errOlder):
		s.book.logger.Warn("client: records", "server", p.destination, "relay", p.relay, "error", err)
	case err != nil && got.Precedes(known):
		err = s.caller.PutRelayRecord(ctx, p.relay, *known)
		if err == nil || refuses(err) {
			s.note(ctx, p, way, err == nil)
		}
	default:
		s.note(ctx, p, way, got.Names(p.relay))
	}
	return nil
}

// refuses reports whether a relay has said that it has no record that is right. Any other
// failure says nothing.
func refuses(err error) bool {
	var e *wire.Error
	if !errors.As(err, &e) {
		return errors.Is(err, wire.ErrSigned)
	}
	return e.Status == http.StatusForbidden || e.Status == http.StatusNotFound || e.Status == http.StatusMethodNotAllowed
}

// note writes down whether a relay agrees, and by which way. Mail goes to an address only
// if that has agreed.
func (s *scout) note(ctx context.Context, p pair, way *path, agrees bool) {
	err := s.book.change(ctx, p.destination, func(page *page) error {
		_, before := page.Agreed[p.relay]
		switch {
		case agrees && page.record != nil && page.record.Names(p.relay):
			if page.Agreed == nil {
				page.Agreed = make(map[spec.ServerName]int64)
			}
			page.Agreed[p.relay] = time.Now().Unix()
			page.through(p.relay, way.taken)
		case before:
			delete(page.Agreed, p.relay)
			page.through(p.relay, "")
		default:
			return errOlder // nothing is new
		}
		return nil
	})
	if err != nil && !errors.Is(err, errOlder) && ctx.Err() == nil {
		s.book.logger.Warn("client: records", "server", p.destination, "relay", p.relay, "error", err)
	}
}

// through notes by which address a relay has agreed, none if by its name.
func (p *page) through(relay spec.ServerName, address string) {
	if delete(p.Through, relay); address == "" {
		return
	}
	if p.Through == nil {
		p.Through = make(map[spec.ServerName]string)
	}
	p.Through[relay] = address
}

// check asks a relay for the newer record that it says it has. One that hasn't isn't
// believed for a while.
func (s *scout) check(ctx context.Context, p pair, seq uint64) {
	s.book.mu.Lock()
	wait := time.Since(s.book.todo.hinted[p.relay]) < askedEvery || s.book.todo.silent.wait(hostOf(p.relay)) > 0
	if !wait {
		note(s.book.todo.hinted, p.relay, time.Now())
	}
	s.book.mu.Unlock()
	if wait {
		return
	}
	got, err := s.caller.RelayRecord(ctx, p.relay, p.destination)
	if err == nil {
		err = s.book.take(ctx, got, true)
	}
	switch {
	case ctx.Err() != nil:
		s.unask(p, nil)
	case errors.As(err, new(unanswered)):
		s.book.todo.silent.failed(hostOf(p.relay), 0)
		s.unask(p, nil)
	}
	if err != nil || got.Seq < seq {
		return
	}
	s.book.mu.Lock()
	delete(s.book.todo.hinted, p.relay)
	s.book.mu.Unlock()
	s.follow(ctx, p.destination)
}
