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

	// overhead is about how many bytes a message takes besides its data.
	overhead = 200

	// A stream is measured this often while there are writes, also if it has no
	// limit, in case it's given one.
	measureEvery = time.Second
)

// A room is how full the stream is, as far as it has a limit.
type room struct {
	limit    int64 // 0: none
	used     int64 // when it was measured, and the bytes that this process has added since
	measured time.Time
}

func (r *room) reserve() int64 { return min(r.limit/8, maxReserve) }

// left is how many bytes may still be added.
func (r *room) left() int64 { return r.limit - r.reserve() - r.used }

// filled counts messages that were stored, as if they replaced nothing.
func (r *room) filled(messages []outgoing) {
	for i := range messages {
		r.used += int64(len(messages[i].data)) + overhead
	}
}

// measure asks how large the stream is, before each batch if it is nearly full.
// If there's no answer, the last one holds.
func (w *writer) measure() {
	nearlyFull := w.room.limit > 0 && w.room.left() < w.room.reserve()
	if !nearlyFull && time.Since(w.room.measured) < measureEvery {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), attemptTimeout)
	defer cancel()
	stream, err := w.engine.js.Stream(ctx, w.engine.stream)
	if err != nil {
		return
	}
	info := stream.CachedInfo()
	w.room = room{limit: max(info.Config.MaxBytes, 0), used: int64(info.State.Bytes), measured: time.Now()}
}

// fits returns an error if the stream is too full for something of that size
// beside the changes that the batch has.
func (b *batch) fits(size int64) error {
	more := size + (2+size/int64(b.engine.maxMessage()))*overhead
	for _, change := range b.change {
		more += max(change.bytes, 0) + max(change.entries, 0)*2*overhead
	}
	if b.room.limit > 0 && more > b.room.left() {
		return fmt.Errorf("jetstream: the stream is near its limit: %w", store.ErrFull)
	}
	return nil
}
