package client

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/turns"
	"github.com/matrixrelay/relay/wire"
)

// How many transactions a batch is asked to have: at first, and at most. A
// batch that is full is followed by one of twice as many, unless it has more
// than enough bytes.
const (
	firstLimit  = 100
	mostLimit   = 500
	enoughBytes = 1 << 20
)

// A mailbox is one relay's mail for this server, while it is being drained.
type mailbox struct {
	Drained
	receiver *Receiver
	turn     *relayTurn
	limit    int
	last     int64 // the entry up to which all were dealt with
	acked    int64 // the entry that was acknowledged last, for certain
	batches  bool  // the relay knows them
	noAfter  bool  // but ignores the query's After
	stale    bool  // it answered with an entry that had been dealt with
	held     holding
	giving   giving

	asked time.Duration // how long the relay wants to be left alone
	pause time.Duration // how long it is to be left alone for its junk; see junk.go
}

// A relayTurn is held while a relay is drained.
type relayTurn struct {
	taken turns.Turn
	last  int64 // the entry up to which all were dealt with, guarded by taken
	junk  junk  // likewise

	giving giving                 // likewise
	listed map[listedKey]struct{} // likewise; those that were handled, and that it listed

	fetched atomic.Int64 // transactions that were dealt with

	// passed are entries behind held ones that were dealt with, guarded by
	// taken.
	passed map[int64]struct{}
}

// drain empties one relay's mailbox. If first isn't nil, it is the relay's first
// answer, which came already. At most two answers are held at a time.
func (r *Receiver) drain(ctx context.Context, relay spec.ServerName, first *wire.Answer) *mailbox {
	turn := r.turn(relay)
	m := &mailbox{Drained: Drained{Relay: relay}, receiver: r, turn: turn, limit: firstLimit}
	if m.Err = turn.taken.Take(ctx); m.Err != nil {
		return m
	}
	defer turn.taken.Give()
	if first != nil && first.EntryID <= turn.last {
		first, m.stale = nil, true // somebody has dealt with it since it came, or the relay repeats itself
	}
	r.calendar.look()
	m.giving, m.giving.waits = turn.giving, false
	m.Err = m.empty(ctx, first)
	if m.Err == nil {
		m.giving.byPut = m.giving.refused
	}
	turn.giving = m.giving
	if m.last > 0 {
		turn.last = m.last
	}
	return m
}

func (r *Receiver) turn(relay spec.ServerName) *relayTurn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.turns[relay] == nil {
		r.turns[relay] = &relayTurn{taken: turns.New(), passed: make(map[int64]struct{}), listed: make(map[listedKey]struct{})}
	}
	return r.turns[relay]
}

// empty deals with one answer after the other until there is no mail.
func (m *mailbox) empty(ctx context.Context, first *wire.Answer) error {
	answer, err := m.firstAnswer(ctx, first)
	for {
		if err != nil {
			return err
		}
		if m.endsHeld(answer) {
			return errors.Join(m.held.why, m.acknowledge(ctx))
		}
		if !answer.EntriesQueued && m.acked == m.last {
			clear(m.turn.passed)
			return nil
		}
		if !answer.EntriesQueued { // the answer that was fetched ahead had to end
			answer, err = m.ask(ctx, 0)
			continue
		}
		if answer.EntryID <= m.last {
			return fmt.Errorf("client: %s answers entry %d after %d was acknowledged", m.Relay, answer.EntryID, m.last)
		}
		answer, err = m.takeBatch(ctx, answer)
	}
}

func (m *mailbox) firstAnswer(ctx context.Context, first *wire.Answer) (answer wire.Answer, err error) {
	if first == nil {
		return m.ask(ctx, 0)
	}
	m.batches, m.giving.takes = first.More != nil, first.Receipts
	return *first, nil
}

// ask acknowledges the entries that were dealt with, and asks for those that follow
// them or, if it is greater, the entry after. An answer that is too long is asked for
// again in smaller pieces.
func (m *mailbox) ask(ctx context.Context, after int64) (wire.Answer, error) {
	for {
		answer, err := m.request(ctx, wire.Query{
			Limit: m.receiver.config.Caller.batch(m.Relay, m.limit), After: after, List: m.receiver.looksFirst(),
		})
		if errors.Is(err, errTooLong) && m.limit > 1 {
			m.limit = max(1, m.limit/4)
			continue
		}
		m.asked = retryAfter(err)
		if err == nil {
			m.batches = answer.More != nil
		}
		return answer, err
	}
}

// takeBatch deals with the transactions of an answer while the next is on its
// way, and returns that.
func (m *mailbox) takeBatch(ctx context.Context, answer wire.Answer) (next wire.Answer, err error) {
	batch := append([]wire.Answer{answer}, answer.More...)
	if answer.IsListed() {
		return m.takeListed(ctx, batch)
	}
	if !m.expectsMore(batch) {
		if err := m.takeAll(ctx, batch); err != nil {
			return next, errors.Join(err, m.acknowledge(ctx))
		}
		return m.ask(ctx, m.held.last)
	}
	ahead := m.askAhead(ctx, batch[len(batch)-1].EntryID)
	defer ahead.cancel()
	if err := m.takeAll(ctx, batch); err != nil {
		ahead.cancel()
		m.join(ahead)
		return next, errors.Join(err, m.acknowledge(ctx))
	}
	m.join(ahead)
	switch {
	case ahead.err != nil && m.asked == 0:
		// A fault of the next batch mustn't have this one come again.
		return next, errors.Join(ahead.err, m.acknowledge(ctx))
	case ahead.err == nil && ahead.answer.EntriesQueued && ahead.answer.EntryID <= m.last:
		m.noAfter = true
		return m.ask(ctx, m.held.last)
	}
	return ahead.answer, ahead.err
}

// expectsMore reports whether more is to be asked for before this batch is dealt
// with, and chooses how many the next is to have.
func (m *mailbox) expectsMore(batch []wire.Answer) bool {
	size := 0
	for i := range batch {
		size += len(batch[i].Transaction)
	}
	full := len(batch) >= m.limit
	if full && size < enoughBytes {
		m.limit = min(2*m.limit, mostLimit)
	}
	return m.batches && !m.noAfter && m.turn.junk.row == 0 && (full || size >= enoughBytes/4)
}

// takeAll deals with transactions in order, until one can't be. It fails, too, if
// the relay is to be left alone for its junk.
func (m *mailbox) takeAll(ctx context.Context, batch []wire.Answer) error {
	anyUse := false
	for i := range batch {
		if err := ctx.Err(); err != nil {
			return err
		}
		use, err := m.takeUnlessHeld(ctx, batch[i])
		if err != nil {
			return fmt.Errorf("client: handling entry %d of %s: %w", batch[i].EntryID, m.Relay, err)
		}
		anyUse = anyUse || use
		m.receiver.fetching.goesOn(m)
	}
	if m.held.why != nil { // it ends after some answers, also if they are junk
		m.held.answers++
		return nil
	}
	return m.countJunk(anyUse)
}

// acknowledge acknowledges the entries that were dealt with, so that they don't come
// again when the relay isn't asked for more now.
func (m *mailbox) acknowledge(ctx context.Context) error {
	if m.last == m.acked {
		return nil
	}
	_, err := m.request(ctx, wire.Query{Limit: 1})
	return err
}

// An askedAhead is a request that is on its way, for a copy of the mailbox.
type askedAhead struct {
	mailbox
	cancel context.CancelFunc
	done   chan struct{}
	answer wire.Answer
	err    error
}

// askAhead asks for the entries behind one that isn't dealt with yet.
func (m *mailbox) askAhead(ctx context.Context, after int64) *askedAhead {
	ctx, cancel := context.WithCancel(ctx)
	a := &askedAhead{mailbox: *m, cancel: cancel, done: make(chan struct{})}
	m.giving.due = nil // they go with it
	go func() {
		defer close(a.done)
		a.answer, a.err = a.ask(ctx, after)
	}()
	return a
}

// join waits for a request that is on its way, and takes over its news of the
// relay.
func (m *mailbox) join(ahead *askedAhead) {
	<-ahead.done
	m.limit = min(m.limit, ahead.limit)
	m.acked = ahead.acked
	m.batches = ahead.batches
	m.asked = ahead.asked
	m.giving.join(ahead.giving)
}
