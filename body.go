package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// firstRead is what a body gets before it has sent anything, outside of the
// budget: little, so that connections that dribble cost little.
const firstRead = 2 << 10

// A body is what was read of a request, and its share of the budget. The bytes
// stay good after release, which only stops counting them.
type body struct {
	*share
	bytes []byte
}

// read reads the whole body, at most limit bytes. It takes memory only as the
// body arrives: a size that is only announced costs nothing. When it returns
// the transfer can't be cut off any more.
func (b *body) read(w http.ResponseWriter, r *http.Request, limit int64) error {
	if r.Body == nil {
		return nil
	}
	if r.ContentLength > limit {
		return tooLarge(limit)
	}
	err := b.readAll(http.MaxBytesReader(w, r.Body, limit), r.ContentLength, limit)
	if b.setCut(nil) {
		return tooMuchInFlight()
	}
	if cap(b.bytes) > len(b.bytes)+len(b.bytes)/8 {
		b.bytes = bytes.Clone(b.bytes) // it may be kept for long
	}
	return err
}

func (b *body) readAll(in io.Reader, announced, limit int64) error {
	b.bytes = make([]byte, 0, firstRead)
	for {
		n, err := in.Read(b.bytes[len(b.bytes):cap(b.bytes)])
		b.bytes = b.bytes[:len(b.bytes)+n]
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return readError(err, limit)
		}
		if len(b.bytes) == cap(b.bytes) && !b.makeRoom(announced, limit) {
			return tooMuchInFlight()
		}
	}
}

// makeRoom makes room for twice as much, or for just what was announced.
func (b *body) makeRoom(announced, limit int64) bool {
	size := min(2*int64(cap(b.bytes)), limit+1)
	if announced >= 0 {
		size = min(size, announced+1) // one more, to read the end
	}
	size = max(size, int64(cap(b.bytes))+1)
	if !b.set(size, true) {
		return false
	}
	grown := make([]byte, len(b.bytes), size)
	copy(grown, b.bytes)
	b.bytes = grown
	return true
}

// cutReading makes the request's next read fail, where the server can do that.
func cutReading(w http.ResponseWriter) func() bool {
	return func() bool { return http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) == nil }
}

// cutWriting makes the answer's next write fail, where the server can do that.
func cutWriting(w http.ResponseWriter) func() bool {
	return func() bool { return http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0)) == nil }
}

func tooLarge(limit int64) error {
	return &wire.Error{
		Status: http.StatusRequestEntityTooLarge, Code: wire.ErrorTooLarge,
		Message: fmt.Sprintf("the body is larger than %d bytes", limit),
	}
}

func tooMuchInFlight() error {
	return &wire.Error{
		Status: http.StatusTooManyRequests, Code: spec.ErrorLimitExceeded,
		Message: "too much is in flight at once", RetryAfter: time.Second,
	}
}

// readError says that a body that didn't come whole may be sent again.
func readError(err error, limit int64) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge(limit)
	}
	return &wire.Error{
		Status: http.StatusRequestTimeout, Code: spec.ErrorUnknown,
		Message: "the body could not be read to its end",
	}
}
