package jetstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/steady"
)

// tickEvery is about how often each process writes where the clock of the store
// stands, which is by how much a crash of all of them sets it back.
const tickEvery = 15 * time.Second

// A clockRecord is where the clock of the store stood, and the largest ID that
// any mailbox ever gave: a mailbox that has been empty for a day has no record.
type clockRecord struct{ now, top int64 }

func (c clockRecord) encode() []byte {
	e := newEncoder(20)
	e.number(c.now, c.top)
	return e.b
}

func decodeClock(b []byte) (c clockRecord, err error) {
	d := newDecoder(b)
	c.now, c.top = d.number(), d.number()
	if c.top > store.MaxID {
		return c, errCodec
	}
	return c, d.end()
}

var errNoClock = errors.New("another process writes the clock of the store")

// startClock goes on with the clock of the store and writes it, so that whoever
// sees that message has seen all before it. If there is no clock, it begins at the
// machine's time, but not after the last message of the stream: mail from before
// there was a clock expires by the machine's.
func startClock(ctx context.Context, e *engine, subject string, wall time.Time) (m message, err error) {
	err = e.retry(ctx, func(ctx context.Context) error {
		if m, err = e.last(ctx, subject); err != nil {
			return err
		}
		record, err := decodeClock(m.data)
		if err != nil {
			if record, err = firstClock(ctx, e, wall); err != nil {
				return err
			}
		}
		was, data := m.seq, record.encode()
		first, err := e.publish([]outgoing{{subject: subject, data: data, checked: true, seq: m.seq}}, false)
		switch {
		case err == nil:
			m = message{first, data}
		case verdictOn(err) == conflict:
			return errNoClock
		case verdictOn(err) == full && was != 0: // which is no reason not to hand out mail
			return nil
		}
		return err
	})
	if err != nil {
		return m, fmt.Errorf("clock: %w", err)
	}
	return m, nil
}

func firstClock(ctx context.Context, e *engine, wall time.Time) (clockRecord, error) {
	stream, err := e.js.Stream(ctx, e.stream)
	if err != nil {
		return clockRecord{}, err
	}
	state := stream.CachedInfo().State
	if state.LastSeq > 0 && state.LastTime.Before(wall) {
		wall = state.LastTime
	}
	return clockRecord{now: max(wall.UnixMilli(), 1)}, nil
}

// learnClock takes in what another process, or an earlier one, knew.
func (c *cache) learnClock(data []byte) {
	record, err := decodeClock(data)
	if err != nil {
		return
	}
	c.top = max(c.top, record.top)
	c.clock.Raise(record.now)
}

// tick writes where the clock stands.
func (b *batch) tick() error {
	subject := b.subjects.clock()
	m, err := b.message(subject, true)
	if err != nil {
		return err
	}
	_, top := b.cache.whole("")
	b.send(outgoing{subject: subject, data: clockRecord{b.now, top}.encode(), checked: true, seq: m.seq})
	return nil
}

// tickLoop ticks until ctx ends, and once more then.
func (s *Store) tickLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
		case <-time.After(tickEvery/2 + rand.N(tickEvery)):
		}
		w := &work{run: (*batch).tick, end: time.Now()} // the next one is soon
		if err := s.writer.queue.Do(context.Background(), w, 0); err != nil {
			s.options.Logger.Warn("jetstream: the clock of the store can't be written", "error", err)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// expiresAt is as in meta: where the clock will stand when a lifetime is over.
func expiresAt(now int64, lifetime time.Duration) int64 {
	if until := steady.Until(now, lifetime); until != steady.Never {
		return until
	}
	return 0
}

func lifetimeLeft(now, expires int64) time.Duration {
	if expires == 0 {
		return 0
	}
	return steady.Left(now, expires)
}
