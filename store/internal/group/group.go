// Package group lets many calls share one commit: the writing half of a store
// with one goroutine that writes.
package group

import (
	"context"
	"sync"
	"time"

	"github.com/matrixrelay/relay/store"
)

// MaxJobs and MaxBytes bound a batch: it ends at whichever comes first. The last
// job may go beyond MaxBytes.
const (
	MaxJobs  = 256
	MaxBytes = 8 << 20
)

// maxQueued is how many jobs may wait; the next blocks.
const maxQueued = 1024

// A Job is one piece of work that is committed with others.
type Job[W any] struct {
	Work W
	Size int64

	// Err is the outcome, which commit sets.
	Err error

	ctx  context.Context
	done chan struct{}
}

// NewJob returns a job that isn't queued, as commit gets it.
func NewJob[W any](ctx context.Context, work W, size int64) *Job[W] {
	return &Job[W]{Work: work, Size: size, ctx: ctx, done: make(chan struct{})}
}

// Gone is the error of the caller's context: whether it still waits for the outcome.
func (j *Job[W]) Gone() error { return j.ctx.Err() }

// A Queue hands jobs to one goroutine, which commits together all jobs that have
// queued up while the last commit was on its way.
type Queue[W any] struct {
	jobs   chan *Job[W]
	commit func([]*Job[W])
	after  func()
	ended  chan struct{} // closed when the goroutine is gone
	told   listeners

	mu     sync.RWMutex // held for reading while a job is handed over
	closed bool
}

// New starts the goroutine. Commit does the jobs and sets the error of each;
// after, if it isn't nil, is called when the callers that waited for that were told.
func New[W any](commit func([]*Job[W]), after func()) *Queue[W] {
	q := &Queue[W]{jobs: make(chan *Job[W], maxQueued), commit: commit, after: after, ended: make(chan struct{})}
	go q.loop()
	return q
}

// Do returns the outcome of the work, which counts size bytes. When ctx ends
// first it returns that error, and the work may still be done.
func (q *Queue[W]) Do(ctx context.Context, work W, size int64) error {
	j := NewJob(ctx, work, size)
	if err := q.enqueue(j); err != nil {
		return err
	}
	select {
	case <-j.done:
		return j.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (q *Queue[W]) enqueue(j *Job[W]) error {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.closed {
		return store.ErrClosed
	}
	if err := j.ctx.Err(); err != nil {
		return err
	}
	select {
	case q.jobs <- j:
		return nil
	case <-j.ctx.Done():
		return j.ctx.Err()
	}
}

// IsClosed reports whether Close was called.
func (q *Queue[W]) IsClosed() bool {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return q.closed
}

// Len is how many jobs wait for the next commit.
func (q *Queue[W]) Len() int { return len(q.jobs) }

// Close waits for the jobs that were accepted. Later calls of Do give store.ErrClosed.
func (q *Queue[W]) Close() {
	q.mu.Lock()
	if !q.closed {
		q.closed = true
		close(q.jobs)
	}
	q.mu.Unlock()
	<-q.ended
}

func (q *Queue[W]) loop() {
	defer close(q.ended)
	for first := range q.jobs {
		jobs := q.collect(first)
		began := time.Now()
		q.commit(jobs)
		took := time.Since(began)
		for _, j := range jobs {
			close(j.done)
		}
		q.told.tell(commitOf(jobs, took))
		if q.after != nil {
			q.after()
		}
	}
}

// collect takes the jobs that have queued up, without waiting for more.
func (q *Queue[W]) collect(first *Job[W]) []*Job[W] {
	jobs, size := []*Job[W]{first}, first.Size
	for len(jobs) < MaxJobs && size < MaxBytes {
		select {
		case j, ok := <-q.jobs:
			if !ok {
				return jobs
			}
			jobs, size = append(jobs, j), size+j.Size
		default:
			return jobs
		}
	}
	return jobs
}
