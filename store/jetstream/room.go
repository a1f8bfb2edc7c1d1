package jetstream

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/matrixrelay/relay/store"
)

const (
	// Of a stream that has a limit, reserve is kept for removing mail, which
	// writes, too: an eighth, and no more than maxReserve.
	maxReserve = 16 << 20

	// overhead is about what a message takes besides its data, with its part of
	// the records.
	overhead = 400

	// A stream is measured this often while there are writes, and seldom if it
	// has no limit, in case it's given one.
	measureEvery, measureSeldom = time.Second, 30 * time.Second
)

// A room is what the stream may hold of mail before it is full, as far as it
// has a limit.
type room struct {
	limit    int64 // of the stream, 0: none
	besides  int64 // what is in it besides the mail that the total counts,
	entries  int64 // and how many that were
	measured time.Time
}

// measure asks how large the stream is. If there's no answer, the last one holds.
func (w *writer) measure() {
	every := measureSeldom
	if w.room.limit > 0 {
		every = measureEvery
	}
	if time.Since(w.room.measured) < every {
		return
	}
	w.room.measured = time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), attemptTimeout)
	defer cancel()
	stream, err := w.engine.js.Stream(ctx, w.engine.stream)
	if err != nil {
		return
	}
	info := stream.CachedInfo()
	w.room.limit = max(info.Config.MaxBytes, 0)
	held := counts{}
	for i := range shards {
		known, _ := w.cache.get(w.subjects.shard(i))
		s, err := decodeShard(known.data)
		if err != nil {
			return
		}
		held = held.plus(s.counts)
	}
	held = held.positive()
	w.room.besides, w.room.entries = max(int64(info.State.Bytes)-held.bytes, 0), held.entries
}

// left is how much room there is once something of that size is added to the
// stream; it is negative if there isn't enough.
func (b *batch) left(size int64) (int64, error) {
	if b.room.limit <= 0 {
		return math.MaxInt64, nil
	}
	if err := b.loadShards(); err != nil {
		return 0, err
	}
	held := b.held()
	since := max(held.entries-b.room.entries, 0)*overhead + held.bytes
	more := size + (2+size/int64(b.maxMessage))*overhead
	return b.room.limit - min(b.room.limit/8, maxReserve) - (b.room.besides + since + more), nil
}

// contested reports whether others might fill what is left with commits that this
// process doesn't know of yet.
func (b *batch) contested(left int64) bool {
	return left < max(b.room.limit/8, (shards-1)*(b.change.bytes+b.change.entries*overhead))
}

func errNoRoom(what string) error {
	return fmt.Errorf("jetstream: %s: the stream is near its limit: %w", what, store.ErrFull)
}
