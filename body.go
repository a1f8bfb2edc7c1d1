package relay

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// firstRead is what a body gets before it has sent anything: little, so that
// connections that dribble cost little.
const firstRead = 2 << 10

// A budget is memory that bodies share.
type budget struct{ free atomic.Int64 }

func (b *budget) take(n int64) bool {
	if b.free.Add(-n) < 0 {
		b.free.Add(n)
		return false
	}
	return true
}

// A body is what was read of a request, and the share of the budget that it
// holds until release.
type body struct {
	budget *budget
	held   int64
	bytes  []byte
}

func (b *body) release() {
	b.budget.free.Add(b.held)
	b.held, b.bytes = 0, nil
}

// readBody reads the whole body, at most limit bytes. It takes memory only as
// the body arrives: a size that is only announced costs nothing. On an error,
// nothing is held.
func (b *budget) readBody(w http.ResponseWriter, r *http.Request, limit int64) (*body, error) {
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	in := http.MaxBytesReader(w, r.Body, limit)
	out := &body{budget: b, bytes: make([]byte, 0, firstRead)}
	for {
		n, err := in.Read(out.bytes[len(out.bytes):cap(out.bytes)])
		out.bytes = out.bytes[:len(out.bytes)+n]
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			out.release()
			return nil, readError(err, limit)
		}
		if len(out.bytes) == cap(out.bytes) && !out.grow(r.ContentLength, limit) {
			out.release()
			return nil, &wire.Error{
				Status: http.StatusTooManyRequests, Code: spec.ErrorLimitExceeded,
				Message: "too much is being sent at once", RetryAfter: time.Second,
			}
		}
	}
}

// grow makes room for four times as much, or for just what was announced.
func (b *body) grow(announced, limit int64) bool {
	size := min(4*int64(cap(b.bytes)), limit+1)
	if announced >= 0 {
		size = min(size, announced+1) // one more, to read the end
	}
	size = max(size, int64(cap(b.bytes))+1)
	if !b.budget.take(size - b.held) {
		return false
	}
	b.held = size
	grown := make([]byte, len(b.bytes), size)
	copy(grown, b.bytes)
	b.bytes = grown
	return true
}

func tooLarge(limit int64) error {
	return &wire.Error{
		Status: http.StatusRequestEntityTooLarge, Code: wire.ErrorTooLarge,
		Message: fmt.Sprintf("the body is larger than %d bytes", limit),
	}
}

func readError(err error, limit int64) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge(limit)
	}
	return wire.BadRequest(spec.ErrorNotJSON, "the body could not be read to its end")
}
