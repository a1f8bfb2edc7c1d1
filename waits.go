package relay

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// Bounds of the requests that wait. Where one is reached, the oldest ends for the next
// one, as if its time were over.
const (
	// maxWaitingEach is for one name at one address. More than one or two are
	// connections that have died without a word.
	maxWaitingEach = 16

	// Of all places, one address may take a sixteenth, and half where many parties
	// can't be told apart.
	addressPart, sharedPart = 16, 2
)

// waits are the requests that wait for mail.
type waits struct {
	most int

	mu    sync.Mutex
	off   bool
	ended bool // for good
	crowd *crowd
}

func newWaits(most int) *waits { return &waits{most: most, crowd: newCrowd()} }

// begin returns a context that ends when a request has waited long enough, nil
// if it must not wait. Done must be called if it isn't nil.
func (w *waits) begin(ctx context.Context, by holder, wait time.Duration) (waitCtx context.Context, done func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || w.off || wait <= 0 || w.most <= 0 {
		return nil, nil
	}
	w.makeRoom(by)
	waitCtx, cancel := context.WithTimeout(ctx, wait)
	one := w.crowd.join(by.from, by.name, cancel)
	return waitCtx, func() { w.remove(one) }
}

// makeRoom ends one wait for the next, if that finds no place: of its own name or address
// where these have as many as they may, else where there are most.
func (w *waits) makeRoom(by holder) {
	part := addressPart
	if by.from.Shared {
		part = sharedPart
	}
	atAddress, ofName := w.crowd.of(by.from, by.name)
	switch {
	case ofName >= maxWaitingEach:
		w.crowd.endOldest(w.crowd.addresses[by.from].names[by.name])
	case atAddress >= max(w.most/part, maxWaitingEach):
		w.crowd.endAt(w.crowd.addresses[by.from])
	case w.crowd.count >= w.most:
		w.crowd.endMost()
	}
}

func (w *waits) remove(one *waiting) {
	one.end()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.crowd.leave(one)
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
	for _, one := range w.crowd.all() {
		one.end()
	}
}

func (w *waits) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.crowd.count
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
