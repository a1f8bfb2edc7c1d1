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

	// maxSteps bounds how many records are followed at once, each to the relays that
	// the next one names.
	maxSteps = 8

	// maxWanted bounds the servers and the hints that wait.
	maxWanted = 10_000

	// scouts is how many servers are looked for at once.
	scouts = 8
)

// todo has the questions of a book that are open. Its methods are called with the book locked.
type todo struct {
	wake   chan struct{}
	wanted map[spec.ServerName]struct{}
	hints  map[pair]uint64   // numbers of records that relays say they have
	shown  *wire.RelayRecord // one of this server, that it was sent

	asked  map[pair]time.Time            // when, likewise
	hosts  map[spec.ServerName]time.Time // when one was asked that hasn't shown to be a relay
	proven map[spec.ServerName]time.Time // when one has
	hinted map[spec.ServerName]time.Time // when a hint of it was followed that was wrong
}

func newTodo() todo {
	return todo{
		wake: make(chan struct{}, 1), wanted: make(map[spec.ServerName]struct{}), hints: make(map[pair]uint64),
		asked: make(map[pair]time.Time), hosts: make(map[spec.ServerName]time.Time),
		proven: make(map[spec.ServerName]time.Time), hinted: make(map[spec.ServerName]time.Time),
	}
}

func (t *todo) awake() {
	select {
	case t.wake <- struct{}{}:
	default: // it is awake
	}
}

// mayAsk reports whether a relay may be asked about a server now, which counts as asking.
func (t *todo) mayAsk(p pair, now time.Time) bool {
	if now.Sub(t.asked[p]) < askedEvery {
		return false
	}
	if now.Sub(t.proven[p.relay]) >= agreementLasts {
		if now.Sub(t.hosts[p.relay]) < askedEvery {
			return false
		}
		note(t.hosts, p.relay, now)
	}
	note(t.asked, p, now)
	return true
}

func note[K comparable](m map[K]time.Time, key K, now time.Time) {
	if _, ok := m[key]; !ok {
		makeRoom(m, maxBackoffs)
	}
	m[key] = now
}

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

// takeTodo returns all that is to be found out now.
func (b *book) takeTodo() (wanted map[spec.ServerName]struct{}, hints map[pair]uint64, shown *wire.RelayRecord) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := &b.todo
	wanted, hints, shown = t.wanted, t.hints, t.shown
	t.wanted, t.hints, t.shown = make(map[spec.ServerName]struct{}), make(map[pair]uint64), nil
	return wanted, hints, shown
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
		if relay.Name == s.book.self || !p.isDue(relay.Name, time.Now()) || !s.mayAsk(pair{relay.Name, server}) {
			continue
		}
		all.Go(func() {
			s.ask(ctx, pair{relay.Name, server}, p.record)
			if ctx.Err() != nil { // it may not have come to the relay
				s.unask(pair{relay.Name, server})
			}
		})
	}
	all.Wait()
	return s.book.page(server).record != p.record
}

func (s *scout) mayAsk(p pair) bool {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	return s.book.todo.mayAsk(p, time.Now())
}

// unask has a relay count as not asked.
func (s *scout) unask(p pair) {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	delete(s.book.todo.asked, p)
	delete(s.book.todo.hosts, p.relay)
	delete(s.book.todo.hinted, p.relay)
}

// ask asks one relay for a server's record, and brings it the one that is known if that is
// newer. A relay that shows none, or one that doesn't name it, doesn't agree.
func (s *scout) ask(ctx context.Context, p pair, known *wire.RelayRecord) {
	got, err := s.caller.RelayRecord(ctx, p.relay, p.destination)
	if err == nil {
		err = got.Check(ctx, s.book.keys, time.Now())
	}
	if err != nil {
		if refuses(err) {
			s.note(ctx, p, false)
		}
		return
	}
	s.book.mu.Lock()
	note(s.book.todo.proven, p.relay, time.Now())
	s.book.mu.Unlock()
	err = s.book.take(ctx, got, true) // also an older one, if the key of the other is withdrawn
	switch {
	case err != nil && !errors.Is(err, errOlder):
		s.book.logger.Warn("client: records", "server", p.destination, "relay", p.relay, "error", err)
	case err != nil && got.Precedes(known):
		err = s.caller.PutRelayRecord(ctx, p.relay, *known)
		if err == nil || refuses(err) {
			s.note(ctx, p, err == nil)
		}
	default:
		s.note(ctx, p, got.Names(p.relay))
	}
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

// note writes down whether a relay agrees.
func (s *scout) note(ctx context.Context, p pair, agrees bool) {
	err := s.book.change(ctx, p.destination, func(page *page) error {
		_, before := page.Agreed[p.relay]
		switch {
		case agrees && page.record != nil && page.record.Names(p.relay):
			if page.Agreed == nil {
				page.Agreed = make(map[spec.ServerName]int64)
			}
			page.Agreed[p.relay] = time.Now().Unix()
		case before:
			delete(page.Agreed, p.relay)
		default:
			return errOlder // nothing is new
		}
		return nil
	})
	if err != nil && !errors.Is(err, errOlder) && ctx.Err() == nil {
		s.book.logger.Warn("client: records", "server", p.destination, "relay", p.relay, "error", err)
	}
}

// check asks a relay for the newer record that it says it has. One that hasn't isn't
// believed for a while.
func (s *scout) check(ctx context.Context, p pair, seq uint64) {
	s.book.mu.Lock()
	wait := time.Since(s.book.todo.hinted[p.relay]) < askedEvery
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
	if ctx.Err() != nil {
		s.unask(p)
	}
	if err != nil || got.Seq < seq {
		return
	}
	s.book.mu.Lock()
	delete(s.book.todo.hinted, p.relay)
	s.book.mu.Unlock()
	s.follow(ctx, p.destination)
}

// awake has all that is due be done at once.
func (b *book) awake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.todo.awake()
}

// show is for a record of this server that it was sent.
func (b *book) show(record *wire.RelayRecord) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.todo.shown = record
	b.todo.awake()
}
