package jetstream

import (
	"context"
	"fmt"
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
	known, _ := w.cache.get(w.subjects.total())
	if t, err := decodeTotal(known.data); err == nil {
		w.room.besides, w.room.entries = max(int64(info.State.Bytes)-t.bytes, 0), t.entries
	}
}

// hasRoom reports whether something of that size can be added to the stream.
func (b *batch) hasRoom(size int64) bool {
	if b.room.limit <= 0 {
		return true
	}
	t := b.total.value
	since := max(t.entries-b.room.entries, 0)*overhead + t.bytes
	more := size + (2+size/int64(b.maxMessage))*overhead
	return b.room.besides+since+more <= b.room.limit-min(b.room.limit/8, maxReserve)
}

func errNoRoom(what string) error {
	return fmt.Errorf("jetstream: %s: the stream is near its limit: %w", what, store.ErrFull)
}
