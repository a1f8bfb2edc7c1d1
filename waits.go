package relay

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// maxWaitingEach bounds the requests of one destination that wait. More than
// one or two are connections that have died without a word.
const maxWaitingEach = 16

// waits are the requests that wait for mail.
type waits struct {
	most int

	mu     sync.Mutex
	off    bool
	ended  bool // for good
	all    map[*waiting]struct{}
	counts map[spec.ServerName]int
}

type waiting struct{ cancel context.CancelFunc }

func newWaits(most int) *waits {
	return &waits{most: most, all: make(map[*waiting]struct{}), counts: make(map[spec.ServerName]int)}
}

// begin returns a context that ends when a request has waited long enough, nil
// if it must not wait. Done must be called if it isn't nil.
func (w *waits) begin(ctx context.Context, destination spec.ServerName, wait time.Duration) (waitCtx context.Context, done func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || w.off || wait <= 0 || len(w.all) >= w.most || w.counts[destination] >= maxWaitingEach {
		return nil, nil
	}
	waitCtx, cancel := context.WithTimeout(ctx, wait)
	one := &waiting{cancel}
	w.all[one] = struct{}{}
	w.counts[destination]++
	return waitCtx, func() { w.remove(one, destination) }
}

func (w *waits) remove(one *waiting, destination spec.ServerName) {
	one.cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, one)
	if w.counts[destination]--; w.counts[destination] == 0 {
		delete(w.counts, destination)
	}
}

// allow says whether waits may begin. If not, those under way end.
func (w *waits) allow(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.off = !on; w.off {
		w.end()
	}
}

// endForGood ends all waits, and lets none begin.
func (w *waits) endForGood() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.end()
}

func (w *waits) end() {
	for one := range w.all {
		one.cancel()
	}
}

func (w *waits) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.all)
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
