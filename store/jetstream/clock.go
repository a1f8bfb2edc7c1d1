package jetstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/steady"
)

// tickEvery is about how often each process writes where the clock of the store
// stands, which is by how much a crash of all of them sets it back.
const tickEvery = 15 * time.Second

// A clockRecord is where the clock of the store stood, and the largest ID that
// any mailbox ever gave: a mailbox that has been empty for a day has no record.
type clockRecord struct{ now, top int64 }

func (c *clockRecord) code(by *coder) {
	if by.numbers(&c.now, &c.top); c.top > store.MaxID {
		by.fail()
	}
}

func (c *clockRecord) lasts() time.Duration { return 0 }

// tick writes where the clock stands. If it has never been written, it stands at
// the time first.
func (b *batch) tick(first time.Time) error {
	r, err := loadAnyway[clockRecord](b, b.subjects.clock())
	if err != nil {
		return err
	}
	if r.value.now == 0 {
		r.value.now = first.UnixMilli()
	}
	_, top := b.cache.whole("")
	*r.value, r.changed = clockRecord{max(r.value.now, b.now, 1), max(r.value.top, top)}, true
	return nil
}

// startClock goes on with the clock of the store and writes it: when this process
// sees that message, whose sequence it returns, it has seen all before it. A clock
// that is new begins at the machine's time, but not after the last message of the
// stream: mail from before there was a clock expires by the machine's.
func (s *Store) startClock(ctx context.Context, stream jetstream.StreamState) (seq uint64, err error) {
	begin := s.options.wall()
	if stream.LastSeq > 0 && stream.LastTime.Before(begin) {
		begin = stream.LastTime
	}
	err = s.writer.do(ctx, func(b *batch) error { return b.tick(begin) }, 0)
	clock, _ := s.cache.get(s.cache.subjects.clock())
	if err != nil && (clock.seq == 0 || !errors.Is(err, store.ErrFull)) { // which is no reason not to hand out mail
		return 0, fmt.Errorf("clock: %w", err)
	}
	return clock.seq, nil
}

// learnClock takes in the clock and the largest ID as another process, or an earlier
// one, wrote them.
func (c *cache) learnClock(data []byte) {
	var record clockRecord
	if decode(data, &record) == nil {
		c.top = max(c.top, record.top)
		c.clock.Raise(record.now)
	}
}

// tickLoop ticks until ctx ends, and once more then.
func (s *Store) tickLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
		case <-time.After(tickEvery/2 + rand.N(tickEvery)):
		}
		w := &work{run: func(b *batch) error { return b.tick(time.Time{}) }, end: time.Now()} // the next one is soon
		err := s.writer.queue.Do(context.Background(), w, 0)
		if err != nil && !errors.Is(err, store.ErrReopen) { // which the store says itself
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
