package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/wake"
)

const (
	// maxQueued is how many jobs may wait for the writer; the next blocks.
	maxQueued = 1024

	// A batch ends at whichever of these comes first.
	maxBatchJobs  = 256
	maxBatchBytes = 8 << 20

	// checkpointBytes is about how much is written between two checkpoints,
	// maxWALPages when readers are made to wait so that the log can start anew.
	checkpointBytes = 16 << 20
	maxWALPages     = 16 << 10
)

// A writer is the one goroutine, and the one connection, that writes.
type writer struct {
	options Options
	conn    *sql.Conn
	sql     *statements
	waiting *wake.Hub

	queue chan *job
	ended chan struct{} // closed when the goroutine is gone

	mu     sync.RWMutex // held for reading while a job is handed over
	closed bool

	// Only the goroutine uses what follows.
	distrust        error              // why the disk isn't trusted any more
	stuck           map[int64]struct{} // rows that can't be removed
	sinceCheckpoint int64
}

// A job is one piece of work that is committed with others.
type job struct {
	ctx  context.Context
	run  func(*batch) error
	size int64
	err  error
	done chan struct{}
}

func newWriter(ctx context.Context, db *sql.DB, options Options, waiting *wake.Hub) (*writer, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	w := &writer{
		options: options, conn: conn, sql: &statements{}, waiting: waiting,
		queue: make(chan *job, maxQueued), ended: make(chan struct{}),
		stuck: make(map[int64]struct{}),
	}
	if err := w.setUp(ctx); err != nil {
		return nil, errors.Join(err, w.release())
	}
	go w.loop()
	return w, nil
}

func (w *writer) setUp(ctx context.Context) error {
	if err := prepareConn(ctx, w.conn); err != nil {
		return err
	}
	if err := migrate(ctx, w.conn); err != nil {
		return err
	}
	return prepareAll(ctx, w.conn, w.sql.list())
}

func (w *writer) release() error {
	return errors.Join(closeAll(w.sql.list()), w.conn.Close())
}

// do runs the job in a transaction, with whatever else is waiting, and returns
// when that is on the disk.
func (w *writer) do(ctx context.Context, run func(*batch) error, size int64) error {
	j := &job{ctx: ctx, run: run, size: size, done: make(chan struct{})}
	if err := w.enqueue(j); err != nil {
		return err
	}
	select {
	case <-j.done:
		return j.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *writer) enqueue(j *job) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return store.ErrClosed
	}
	if err := j.ctx.Err(); err != nil {
		return err
	}
	select {
	case w.queue <- j:
		return nil
	case <-j.ctx.Done():
		return j.ctx.Err()
	}
}

func (w *writer) isClosed() bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.closed
}

// close waits for what was accepted.
func (w *writer) close() error {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.queue)
	}
	w.mu.Unlock()
	<-w.ended
	return w.release()
}

func (w *writer) loop() {
	defer close(w.ended)
	for first := range w.queue {
		jobs := w.collect(first)
		w.commit(jobs)
		for _, j := range jobs {
			close(j.done)
		}
		if w.sinceCheckpoint > checkpointBytes {
			w.checkpoint()
		}
	}
	w.checkpoint()
}

// collect takes what has queued up, without waiting for more.
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

// commit runs the jobs in one transaction and sets the error of each. Rows that
// can't be removed because the file is damaged are left alone from then on; if
// a job meets other damage, each is tried alone, so that it fails by itself.
func (w *writer) commit(jobs []*job) {
	err := w.transact(jobs)
	for row, ok := errors.AsType[*damagedRow](err); ok; row, ok = errors.AsType[*damagedRow](err) {
		w.options.Logger.Error("relay: an entry can't be removed and is left alone", "entry", row.id, "error", row.err)
		w.stuck[row.id] = struct{}{}
		err = w.transact(jobs)
	}
	if isDamage(err) && len(jobs) > 1 {
		for _, j := range jobs {
			j.err = w.transact([]*job{j})
		}
		return
	}
	for _, j := range jobs {
		j.err = err
	}
}

func (w *writer) transact(jobs []*job) error {
	if w.distrust != nil {
		return w.distrust
	}
	if err := w.exec("BEGIN IMMEDIATE"); err != nil {
		return wrap("begin", err)
	}
	b := newBatch(w)
	if err := b.run(jobs); err != nil {
		w.rollback()
		return wrap("write", err)
	}
	if err := w.exec("COMMIT"); err != nil {
		w.check(err)
		w.rollback()
		if w.distrust != nil {
			return w.distrust
		}
		return wrap("commit", err)
	}
	for _, j := range jobs {
		w.sinceCheckpoint += j.size + 4<<10
	}
	for destination := range b.woken {
		w.waiting.Notify(destination)
	}
	return nil
}

// rollback ends a transaction that failed. SQLite has ended it already after
// some errors, and then refuses.
func (w *writer) rollback() {
	if err := w.exec("ROLLBACK"); err != nil {
		w.options.Logger.Debug("relay: rollback", "error", err)
	}
}

// check ends all trust in the disk after a failed fsync.
func (w *writer) check(err error) {
	if isFailedSync(err) && w.distrust == nil {
		w.distrust = fmt.Errorf("%w after a failed fsync: %w", store.ErrReopen, err)
		w.options.Logger.Error("relay: the store refuses to write until it is reopened", "error", err)
	}
}

// checkpoint brings the log into the database file. What is in the log is
// durable already, so nobody waits for this but the next batch.
func (w *writer) checkpoint() {
	if w.distrust != nil {
		return
	}
	pages, err := w.runCheckpoint("PASSIVE")
	if err == nil && pages > maxWALPages {
		_, err = w.runCheckpoint("TRUNCATE")
	}
	if err != nil {
		w.check(err)
		w.options.Logger.Warn("relay: checkpoint failed", "error", err)
		return
	}
	w.sinceCheckpoint = 0
}

// runCheckpoint returns how many pages the log still has.
func (w *writer) runCheckpoint(mode string) (pages int, err error) {
	var busy, logged, moved int
	row := w.conn.QueryRowContext(context.Background(), "PRAGMA wal_checkpoint("+mode+")")
	if err := row.Scan(&busy, &logged, &moved); err != nil {
		return 0, err
	}
	return logged, nil
}

func (w *writer) exec(query string) error {
	_, err := w.conn.ExecContext(context.Background(), query)
	return err
}

// now is what stands in until.
func now() int64 { return time.Now().UnixMilli() }
