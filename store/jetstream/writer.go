package jetstream

import (
	"cmp"
	"context"
	"sync/atomic"
	"time"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/group"
)

// maxBatchMessages is fewer than the 1000 that a server allows in a batch, unless
// it is told otherwise.
const maxBatchMessages = 900

// A writer is the one goroutine of this process that writes.
type writer struct {
	options  Options
	engine   *engine
	subjects subjects
	cache    *cache
	queue    *group.Queue[*work]
	shrunk   chan struct{} // has something in it when the stream was found to have lost its end
	first    atomic.Int64  // no entry gets a smaller ID: see store.FirstID
	copies   *remembered

	// Only the goroutine uses these fields.
	maxMessages int           // of a batch
	room        room          // that the stream has
	lastJobs    int           // how many the last commit had,
	lastTook    time.Duration // and how long it took
}

// A work is done in a commit with others. Its run changes a batch, and may be
// called any number of times.
type work struct {
	run       func(*batch) error
	end       time.Time // when it isn't tried any more
	unsettled bool      // a batch with it wasn't answered, and may be stored yet
}

type job = group.Job[*work]

func newWriter(options Options, e *engine, c *cache) *writer {
	w := &writer{
		options: options, engine: e, subjects: c.subjects, cache: c,
		shrunk: make(chan struct{}, 1), maxMessages: maxBatchMessages, copies: newRemembered(options),
	}
	w.first.Store(store.FirstID(options.wall()))
	w.queue = group.New(w.commitAll, w.gather)
	return w
}

// do runs something in a commit, with everything else that is waiting, and returns
// when that is acknowledged.
func (w *writer) do(ctx context.Context, run func(*batch) error, size int64) error {
	return w.queue.Do(ctx, &work{run: run, end: time.Now().Add(w.options.Timeout)}, size)
}

func (w *writer) commitAll(jobs []*job) {
	start := time.Now()
	w.lastJobs = len(jobs)
	for len(jobs) > 0 && w.engine.trust.Failure() == nil {
		jobs = w.commit(jobs)
	}
	for _, j := range jobs { // that weren't tried
		j.Err = cmp.Or(j.Err, w.engine.trust.Failure())
	}
	w.lastTook = time.Since(start)
}

// gather gives the callers whose jobs were committed together the moment that
// they need to come with the next ones. It is a small part of the time of a
// commit, and costs less than a commit that some of them miss. A caller that is
// alone doesn't wait.
func (w *writer) gather() {
	const step = 50 * time.Microsecond
	for waited := step; w.queue.Len() < w.lastJobs && waited < w.lastTook/8; waited += step {
		time.Sleep(step)
	}
}
