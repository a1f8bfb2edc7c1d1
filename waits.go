package relay

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/matrixrelay/relay/internal/crowd"
)

// maxWaitingEach bounds the waiting requests of one name at one address. If there are
// more than one or two, the connections of the others have died without a word.
const maxWaitingEach = 16

// waits are the requests that wait for mail. If there are too many, the oldest ends for
// the next one, as if its time were over: see crowd.Join.
type waits struct {
	most int

	mu    sync.Mutex
	off   bool
	ended bool // for good
	crowd *crowd.Crowd
}

func newWaits(most int) *waits {
	return &waits{most: most, crowd: crowd.New(most, maxWaitingEach, crowd.Part)}
}

// begin returns a context that ends when a request has waited long enough, nil
// if it must not wait. Done must be called if it isn't nil.
func (w *waits) begin(ctx context.Context, by holder, wait time.Duration) (waitCtx context.Context, done func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || w.off || wait <= 0 || w.most <= 0 {
		return nil, nil
	}
	waitCtx, cancel := context.WithTimeout(ctx, wait)
	one := w.crowd.Join(by.from, by.name, cancel)
	return waitCtx, func() {
		cancel()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.crowd.Leave(one)
	}
}

// allow says whether waits may begin. If not, those under way end.
func (w *waits) allow(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.off = !on; w.off {
		w.crowd.EndAll()
	}
}

// endForGood ends all waits, and lets none begin.
func (w *waits) endForGood() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.crowd.EndAll()
}

func (w *waits) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.crowd.Count()
}

// answerTime is how long an answer that was held may take to be sent.
const answerTime = 10 * time.Minute

// allowWaiting lifts the deadlines that the embedder's http.Server has set for
// reading the request, which is over, and for answering it. When the wait is
// over, goOn sets one for answering. Where the server can't do that the
// connection ends sooner, and the receiver asks again.
func allowWaiting(w http.ResponseWriter) (goOn func()) {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Time{})
	_ = c.SetWriteDeadline(time.Time{})
	return func() { _ = c.SetWriteDeadline(time.Now().Add(answerTime)) }
}
