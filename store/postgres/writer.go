package postgres

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matrixrelay/relay/store/internal/group"
	"github.com/matrixrelay/relay/store/internal/trust"
	"github.com/matrixrelay/relay/store/internal/wake"
)

const (
	// attempts is how often a transaction is tried that others, or the loss of
	// the connection, may have kept from being committed; pause is how long the
	// first wait before another is, and each is four times as long as the last.
	attempts = 5
	pause    = 20 * time.Millisecond

	// attemptTime bounds each, so that a connection that says nothing is given
	// up, and after it there is no other. It is longer than the server waits for
	// locks.
	attemptTime = 30 * time.Second

	// countTime bounds counting anew in tables that aren't those of before.
	countTime = 10 * time.Minute
)

type job = group.Job[work]

// A writer is the one goroutine that writes. It commits the works of its process
// together, beside the writers of other processes.
type writer struct {
	options batchOptions
	reader  *reader
	pool    *pgxpool.Pool
	log     *slog.Logger
	waiting *wake.Hub
	trust   *trust.Trust
	queue   *group.Queue[work]

	// Only the goroutine uses these.
	server string // that was written to last
	lastID int64  // that it has given
	exact  bool   // the last batch found the store tight
}

func newWriter(s *Store, server string, options batchOptions) *writer {
	w := &writer{
		options: options, reader: newReader(s, 1), pool: s.pool, log: s.options.Logger,
		waiting: &s.waiting, trust: s.trust, server: server,
	}
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

// expire removes a step of the expired mail, and reports whether there was any.
func (w *writer) expire() bool {
	ctx, cancel := context.WithTimeout(context.Background(), attemptTime)
	defer cancel()
	names, err := w.reader.expired(ctx)
	if err == nil && len(names) == 0 {
		return false
	}
	e := expiryOf(names, w.options.clock.Now())
	if err == nil {
		err = w.transact([]work{e}, false)
	}
	if err != nil {
		w.log.Warn("postgres: removing expired mail failed", "error", err)
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
		w.attemptEach(jobs)
		return
	}
	for _, j := range jobs {
		j.Err = cmp.Or(j.Err, err)
	}
}

// attemptEach runs each job in a transaction of its own, as long as the server
// is there.
func (w *writer) attemptEach(jobs []*job) {
	var gone error
	for _, j := range jobs {
		if j.Err = cmp.Or(j.Err, gone); j.Err != nil {
			continue
		}
		if j.Err = w.transact([]work{j.Work}, false); j.Err != nil && !isRefusal(j.Err) && !isDiskFull(j.Err) {
			gone = j.Err
		}
	}
}

// transact runs the works until they are committed, or it is clear that they
// won't be, or there were enough attempts. When the end of a transaction isn't
// known, the next finds out: it waits for the locks of the one before, and
// recognises mail that that one has stored.
func (w *writer) transact(works []work, noRoom bool) error {
	if len(works) == 0 {
		return nil
	}
	start := time.Now()
	for n, wait := 1, pause; ; n, wait = n+1, 4*wait {
		if lost := w.trust.Failure(); lost != nil {
			return lost
		}
		b := newBatch(w.options)
		b.exact, b.noRoom, b.server, b.lastID = w.exact, noRoom, w.server, w.lastID
		err := w.run(b, works)
		if err == nil {
			w.done(b)
			return nil
		}
		tight := errors.Is(err, errTight)
		w.exact = w.exact || tight
		other := errors.Is(err, errOther) || isGone(err)
		if other {
			err = cmp.Or(w.meet(), err)
		}
		if isGone(err) && n > 1 { // a server that starts, or is restored, may be wrong once
			w.trust.Lose(err)
			continue
		}
		if n == attempts || !other && !isPassing(err) || time.Since(start) > attemptTime {
			return wrap("write", err)
		}
		if !tight && !errors.Is(err, errOther) {
			time.Sleep(wait)
		}
	}
}

// done is told of a batch that was committed.
func (w *writer) done(b *batch) {
	if b.knowsTotal {
		w.exact = b.tight
	}
	for destination := range b.woken {
		w.waiting.Notify(wakeName(destination))
	}
}

// meet prepares a server for being written to. One that took over from another,
// and a database that was set back, must give no IDs that were given before.
func (w *writer) meet() error {
	ctx, cancel := context.WithTimeout(context.Background(), countTime)
	defer cancel()
	m, err := w.options.schema.alone(ctx, w.pool, meeting{lastID: w.lastID, clock: w.options.clock.Now()}, takeover,
		w.options.allowNoFsync, func(pgx.Tx) error { return nil })
	if err == nil {
		w.server = m.server
		w.options.clock.Raise(m.clock)
		m.report(w.log)
	}
	return err
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
	w.lastID = b.lastID
	switch {
	case committed && err != nil:
		w.announce(b)
		return nil
	case errors.Is(err, errTight), errors.Is(err, errMoved), errors.Is(err, errOther):
		_, _ = conn.Exec(ctx, rollbackSQL) // without it the connection is closed, which does the same
	case isStandby(err):
		_ = conn.Conn().Close(ctx) // the next may lead elsewhere
	}
	return err
}

// announce tells other processes of new mail, if the connection was lost before
// they were told.
func (w *writer) announce(b *batch) {
	ctx, cancel := context.WithTimeout(context.Background(), connectTime)
	defer cancel()
	q := &pgx.Batch{}
	b.queueAnnouncements(q)
	if err := w.pool.SendBatch(ctx, q).Close(); err != nil {
		w.log.Warn("postgres: telling other processes of new mail failed", "error", err)
	}
}
