package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/matrixrelay/relay/wire"
)

// A receiver with several relays looks first: it has each of them list its mail, and
// fetches only mail that no other relay has brought. A list never counts as mail that was
// handled: a transaction in it is fetched unless that very one was handled before.

// fetchPatience is how long a relay may make no progress with the mail that it was asked for
// before the others no longer wait for it. mostFetchPatience is how long they wait at most:
// it could have mail without end.
const (
	fetchPatience     = 10 * time.Second
	mostFetchPatience = time.Minute
)

// enoughListed is how much mail is asked for at once, as far as its relay tells its size.
const enoughListed = 4 << 20

// A fetchTurn is held while a relay brings mail that it has listed, so that others see it,
// and don't bring the same again.
type fetchTurn struct {
	mu     sync.Mutex
	holder *mailbox
	moved  time.Time     // when there was progress
	free   chan struct{} // closed when it is given back
}

func newFetchTurn() *fetchTurn { return &fetchTurn{free: make(chan struct{})} }

// take takes the turn, from another relay if need be.
func (t *fetchTurn) take(ctx context.Context, m *mailbox) error {
	latest := time.Now().Add(mostFetchPatience)
	for {
		free, wait := t.tryTake(m, latest)
		if wait <= 0 {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-free:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// tryTake takes the turn, or says for how long to wait for it at most.
func (t *fetchTurn) tryTake(m *mailbox, latest time.Time) (free <-chan struct{}, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holder != nil {
		if wait := min(fetchPatience-time.Since(t.moved), time.Until(latest)); wait > 0 {
			return t.free, wait
		}
	}
	t.holder, t.moved = m, time.Now()
	return nil, 0
}

// goesOn says that a relay gets on.
func (t *fetchTurn) goesOn(m *mailbox) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holder == m {
		t.moved = time.Now()
	}
}

// give gives the turn back, unless another relay has taken it.
func (t *fetchTurn) give(m *mailbox) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holder == m {
		t.holder = nil
		close(t.free)
		t.free = make(chan struct{})
	}
}

// looksFirst reports whether there are several relays. Those that don't know lists answer
// with the mail itself.
func (r *Receiver) looksFirst() bool { return len(r.config.Peers.Relays(r.self)) > 1 }

// takeListed deals with the mail in a list, and returns the next answer.
func (m *mailbox) takeListed(ctx context.Context, list []wire.Answer) (next wire.Answer, err error) {
	if len(list) >= m.limit {
		m.limit = min(2*m.limit, mostLimit)
	}
	first, from := list[0].EntryID, max(m.last, m.held.last)
	for len(list) > 0 && err == nil {
		list, err = m.takeSome(ctx, list)
	}
	if err == nil && max(m.last, m.held.last) == from {
		err = fmt.Errorf("client: %s lists entry %d, and doesn't give it", m.Relay, first)
	}
	if err != nil {
		return next, errors.Join(err, m.acknowledge(ctx))
	}
	return m.ask(ctx, m.held.last)
}

// takeSome deals with the first of some listed mail, as much as is fetched at once, and
// returns the rest.
func (m *mailbox) takeSome(ctx context.Context, list []wire.Answer) (rest []wire.Answer, err error) {
	some, wanted := m.choose(list)
	if len(wanted) > 0 {
		turn := m.receiver.fetching
		if err := turn.take(ctx, m); err != nil {
			return list, err
		}
		defer turn.give(m)
		some, wanted = m.choose(list) // others may have brought it meanwhile
	}
	rest = list[len(some):]
	found, err := m.fetch(ctx, wanted)
	if err != nil {
		return rest, err
	}
	var batch []wire.Answer
	for _, entry := range some {
		if _, isWanted := slices.BinarySearch(wanted, entry.EntryID); isWanted {
			var there bool
			if entry, there = found[entry.EntryID]; !there {
				continue // it is gone
			}
		}
		batch = append(batch, entry)
	}
	return rest, m.takeAll(ctx, batch)
}

// choose returns the first of some listed mail, with no more than is fetched at once, and
// the entries of it that are to be fetched, in order.
func (m *mailbox) choose(list []wire.Answer) (some []wire.Answer, wanted []int64) {
	size := int64(0)
	for i := range list {
		if m.isKnown(&list[i]) {
			continue
		}
		if size += list[i].Bytes; len(wanted) >= min(m.limit, wire.MaxIDs) || len(wanted) > 0 && size > enoughListed {
			return list[:i], wanted
		}
		wanted = append(wanted, list[i].EntryID)
	}
	return list, wanted
}

// isKnown reports whether a listed transaction, or one that was decided about while others
// were held, needn't be fetched.
func (m *mailbox) isKnown(listed *wire.Answer) bool {
	if _, passed := m.turn.passed[listed.EntryID]; passed {
		return true
	}
	known, _ := m.receiver.config.History.has(seenKeyOf(listed.Origin, listed.Digest), listed.TransactionID)
	return known
}

// fetch fetches entries. Those that are gone aren't among the answers. An answer that is
// too long is asked for in smaller pieces.
func (m *mailbox) fetch(ctx context.Context, ids []int64) (map[int64]wire.Answer, error) {
	found, most := make(map[int64]wire.Answer), len(ids)
	for len(ids) > 0 {
		answer, err := m.request(ctx, wire.Query{Limit: min(most, len(ids)), IDs: ids[:min(most, len(ids))]})
		if errors.Is(err, errTooLong) && most > 1 {
			most = max(1, most/4)
			continue
		}
		if err != nil {
			m.asked = retryAfter(err)
			return nil, err
		}
		last := ids[min(most, len(ids))-1]
		if answer.EntriesQueued {
			if last = answer.EntryID; last < ids[0] { // else it could go on for ever
				return nil, fmt.Errorf("client: %s answers entry %d when it is asked for %d", m.Relay, last, ids[0])
			}
			found[last] = answer
			for _, one := range answer.More {
				last = one.EntryID
				found[last] = one
			}
		}
		m.receiver.fetching.goesOn(m)
		// The answer may be cut off. Entries that are missing before its last one are gone.
		ids = slices.DeleteFunc(slices.Clone(ids), func(id int64) bool { return id <= last })
	}
	return found, nil
}

// maxListed bounds the transactions of a relay of which it is remembered that it listed
// them.
const maxListed = 10_000

// A listedKey is a listed transaction by content and ID.
type listedKey struct {
	seenKey
	id uint64
}

// takeKnown deals with a listed transaction that was handled before, and reports whether
// that was of use: not if the relay lists it again.
func (m *mailbox) takeKnown(listed *wire.Answer) (use bool) {
	m.Copies++
	key := listedKey{seenKeyOf(listed.Origin, listed.Digest), source{id: listed.TransactionID}.idHash()}
	known, quiet := m.receiver.config.History.has(key.seenKey, listed.TransactionID)
	if m.receiver.config.Receipts && known && !quiet {
		m.giving.owe(listed.Origin, wire.ReceiptItem{TransactionID: listed.TransactionID, Digest: listed.Digest})
	}
	if _, again := m.turn.listed[key]; again {
		return false
	}
	makeRoom(m.turn.listed, maxListed)
	m.turn.listed[key] = struct{}{}
	return true
}
