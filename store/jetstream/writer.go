package jetstream

import (
	"context"
	"sync"
	"time"

	"github.com/matrixrelay/relay/store"
)

const (
	// maxQueued is how many jobs may wait for the writer; the next blocks.
	maxQueued = 1024

	// A batch ends at whichever of these comes first. A server allows 1000
	// messages in one, unless it is told otherwise.
	maxBatchJobs     = 256
	maxBatchBytes    = 8 << 20
	maxBatchMessages = 900
)

// A writer is the one goroutine of this process that writes. It takes what has
// queued up while the last commit was on its way and commits it together.
type writer struct {
	options  Options
	engine   *engine
	subjects subjects
	cache    *cache

	queue chan *job
	ended chan struct{} // closed when the goroutine is gone

	shrunk chan struct{} // has something in it when the stream was found to have lost its end

	mu        sync.RWMutex  // held for reading while a job is handed over
	closed    chan struct{} // closed when no more are taken
	closeOnce sync.Once

	// Only the goroutine uses what follows.
	shard       int           // where it counts what it puts and removes,
	chosen      bool          // which it has seen to,
	wrote       uint64        // and the sequence of what it wrote there
	unsettled   bool          // a batch may be on its way that wasn't answered
	maxMessages int           // of a batch
	room        room          // that the stream has
	lastJobs    int           // how many the last commit had,
	lastTook    time.Duration // and how long it took
}

// A job is one piece of work that is committed with others. Its run changes a
// batch, and may be called any number of times.
type job struct {
	ctx  context.Context
	run  func(*batch) error
	size int64
	end  time.Time // when it isn't tried any more
	done chan struct{}
	err  error
}

func newWriter(options Options, e *engine, c *cache) *writer {
	w := &writer{
		options: options, engine: e, subjects: c.subjects, cache: c,
		queue: make(chan *job, maxQueued), closed: make(chan struct{}), ended: make(chan struct{}), shrunk: make(chan struct{}, 1),
		maxMessages: maxBatchMessages,
	}
	go w.loop()
	return w
}

// do runs the job in a commit, with whatever else is waiting, and returns when
// that is acknowledged.
func (w *writer) do(ctx context.Context, run func(*batch) error, size int64) error {
	j, err := w.start(ctx, run, size)
	if err != nil {
		return err
	}
	return j.wait()
}

// start has the job done, after those that were started before.
func (w *writer) start(ctx context.Context, run func(*batch) error, size int64) (*job, error) {
	j := &job{ctx: ctx, run: run, size: size, end: time.Now().Add(w.options.Timeout), done: make(chan struct{})}
	return j, w.enqueue(j)
}

// wait returns when what the job has done is acknowledged, or its caller has gone.
func (j *job) wait() error {
	select {
	case <-j.done:
		return j.err
	case <-j.ctx.Done():
		return j.ctx.Err()
	}
}

func (w *writer) enqueue(j *job) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.isClosed() {
		return store.ErrClosed
	}
	if err := j.ctx.Err(); err != nil {
		return err
	}
	select {
	case w.queue <- j:
		return nil
	case <-w.closed: // so that close needn't wait for room in the queue, nor others for close
		return store.ErrClosed
	case <-j.ctx.Done():
		return j.ctx.Err()
	}
}

func (w *writer) isClosed() bool {
	select {
	case <-w.closed:
		return true
	default:
		return false
	}
}

// close waits for what was accepted.
func (w *writer) close() {
	w.closeOnce.Do(func() {
		close(w.closed)
		w.mu.Lock()
		defer w.mu.Unlock()
		close(w.queue)
	})
	<-w.ended
}

func (w *writer) loop() {
	defer close(w.ended)
	for first := range w.queue {
		w.gather()
		jobs := w.collect(first)
		start := time.Now()
		w.lastJobs = len(jobs)
		for len(jobs) > 0 {
			jobs = w.commit(jobs)
		}
		w.lastTook = time.Since(start)
	}
}

// gather gives those whose last jobs were committed together the moment that
// they need to come with the next ones: a small part of what a commit takes,
// which costs less than a commit that some of them miss. Who comes alone isn't
// kept waiting.
func (w *writer) gather() {
	const step = 50 * time.Microsecond
	for waited := step; len(w.queue) < w.lastJobs-1 && waited < w.lastTook/8; waited += step {
		time.Sleep(step)
	}
}

// collect takes what has queued up.
func (w *writer) collect(first *job) []*job {
	jobs, size := []*job{first}, first.size
	for len(jobs) < maxBatchJobs && size < maxBatchBytes {
		select {
		case j, ok := <-w.queue:
			if !ok {
				return jobs
			}
			jobs, size = append(jobs, j), size+j.size
		default:
			return jobs
		}
	}
	return jobs
}
