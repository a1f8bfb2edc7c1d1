package postgres

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matrixrelay/relay/store/internal/group"
	"github.com/matrixrelay/relay/store/internal/wake"
)

const (
	// attempts is how often a transaction is tried that others, or the loss of
	// the connection, may have kept from being committed; pause is how long the
	// first wait before another is, and each is four times as long as the last.
	attempts = 5
	pause    = 20 * time.Millisecond

	// attemptTime bounds each, so that a connection that says nothing is given
	// up. It is longer than the server waits for locks.
	attemptTime = 30 * time.Second
)

type job = group.Job[work]

// A writer is the one goroutine that writes. It commits together what its
// process has for it, and beside the writers of other processes.
type writer struct {
	options batchOptions
	reader  *reader
	pool    *pgxpool.Pool
	log     *slog.Logger
	waiting *wake.Hub
	queue   *group.Queue[work]

	exact bool // the last batch found the store tight; only the goroutine uses it
}

func newWriter(reader *reader, options batchOptions, log *slog.Logger, waiting *wake.Hub) *writer {
	w := &writer{options: options, reader: reader, pool: reader.pool, log: log, waiting: waiting}
	w.queue = group.New(w.commit, nil)
	return w
}

// commit runs the jobs in one transaction and sets the error of each. Mail that
// doesn't fit is tried again when something has expired.
func (w *writer) commit(jobs []*job) {
	w.attempt(jobs)
	for range 4 {
		jobs = overLimit(jobs)
		if len(jobs) == 0 || !w.expire() {
			return
		}
		w.attempt(jobs)
	}
}

func overLimit(jobs []*job) (over []*job) {
	for _, j := range jobs {
		if p, ok := j.Work.(*put); ok && j.Err == nil && p.overLimit {
			over = append(over, j)
		}
	}
	return over
}

// expire removes a step of what has expired, and reports whether there was any.
func (w *writer) expire() bool {
	ctx, cancel := context.WithTimeout(context.Background(), attemptTime)
	defer cancel()
	names, err := w.reader.expired(ctx)
	if err == nil && len(names) == 0 {
		return false
	}
	e := &expiry{destinations: names}
	if err == nil {
		err = w.transact([]work{e}, false)
	}
	if err != nil {
		w.log.Warn("relay: removing expired mail failed", "error", err)
	}
	return err == nil && e.removed > 0
}

// attempt runs the jobs in one transaction. On a full disk those that need no
// room go without the others; a job that the server refuses fails by itself.
func (w *writer) attempt(jobs []*job) {
	works := make([]work, 0, len(jobs))
	for _, j := range jobs {
		if j.Err = j.Gone(); j.Err == nil {
			works = append(works, j.Work)
		}
	}
	err := w.transact(works, false)
	if isDiskFull(err) {
		err = w.transact(works, true)
	}
	if isRefusal(err) && len(works) > 1 {
		for _, j := range jobs {
			j.Err = cmp.Or(j.Err, w.transact([]work{j.Work}, false))
		}
		return
	}
	for _, j := range jobs {
		j.Err = cmp.Or(j.Err, err)
	}
}

// transact runs the works until they are committed, or it is clear that they
// won't be, or there were enough attempts. When the end of a transaction isn't
// known, the next finds out: it waits for the locks of the one before, and
// recognises what that has stored.
func (w *writer) transact(works []work, noRoom bool) (err error) {
	if len(works) == 0 {
		return nil
	}
	for n, wait := 1, pause; ; n, wait = n+1, 4*wait {
		b := newBatch(w.options)
		b.exact, b.noRoom = w.exact, noRoom
		err = w.run(b, works)
		if err == nil {
			if b.knowsTotal {
				w.exact = b.tight
			}
			for destination := range b.woken {
				w.waiting.Notify(wakeName(destination))
			}
			return nil
		}
		if errors.Is(err, errTight) {
			w.exact, wait = true, 0
		}
		if n == attempts || !isPassing(err) {
			return wrap("write", err)
		}
		time.Sleep(wait)
	}
}

// run is one attempt.
func (w *writer) run(b *batch, works []work) error {
	ctx, cancel := context.WithTimeout(context.Background(), attemptTime)
	defer cancel()
	conn, err := w.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release() // closes it if it is still in a transaction
	committed, err := b.run(ctx, conn.Conn(), works)
	switch {
	case committed && err != nil:
		w.log.Warn("relay: telling other processes of new mail failed", "error", err)
		return nil
	case errors.Is(err, errTight), errors.Is(err, errMoved):
		_, _ = conn.Exec(ctx, rollbackSQL) // without it the connection is closed, which does the same
	}
	return err
}
