package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"

	lib "modernc.org/sqlite/lib"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/group"
	"github.com/matrixrelay/relay/store/internal/steady"
	"github.com/matrixrelay/relay/store/internal/trust"
	"github.com/matrixrelay/relay/store/internal/wake"
)

const (
	// About how much a row that changes adds to the log, in pages of the file and
	// its indexes.
	pageSize = 4096
	rowCost  = 4 * pageSize

	// spareBytes is how much is kept free on the disk for acknowledging and
	// checkpoints when the disk is too full for mail.
	spareBytes = 1 << 20
)

// A writer is the one goroutine, and the one connection, that writes.
type writer struct {
	options Options
	files   *files
	trust   *trust.Trust
	conn    *sql.Conn
	sql     *statements
	waiting *wake.Hub
	clock   *steady.Clock // is on the disk as of the last commit

	// pauseReads keeps other connections of this store from reading until the
	// function it returns is called.
	pauseReads func() (resume func())

	queue *group.Queue[*task]

	// Only the goroutine uses these fields.
	last   int64 // see batch
	log    logState
	copies remembered

	countedCopies atomic.Int64 // those of copies, for everybody
}

type job = group.Job[*task]

// A task is the work of a job.
type task struct {
	run     func(*batch) error
	rows    int   // that it adds, at most
	skipped error // the caller's context's, if it had ended before the task was run
}

func newWriter(ctx context.Context, db *sql.DB, s *Store) (*writer, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	w := &writer{
		options: s.options, files: s.files, trust: s.trust, conn: conn, sql: &statements{}, waiting: &s.waiting,
	}
	if err := w.setUp(ctx); err != nil {
		return nil, errors.Join(err, w.release())
	}
	w.queue = group.New(w.commit, w.afterCommit)
	return w, nil
}

func (w *writer) setUp(ctx context.Context) error {
	if err := claim(ctx, w.conn, w.files.lock.isMade()); err != nil {
		return err
	}
	if err := prepareConn(ctx, w.conn); err != nil {
		return err
	}
	first := store.FirstID(w.options.machineTime())
	if err := migrate(ctx, w.conn, first); err != nil {
		return err
	}
	if err := w.start(ctx, first); err != nil {
		return err
	}
	// From here on the database isn't new, so it must not need its log to show that.
	if _, err := w.runCheckpoint("PASSIVE"); err != nil && primaryCode(err) != lib.SQLITE_FULL {
		return err
	}
	if err := w.checkDatabase(ctx); err != nil {
		return err
	}
	return cmp.Or(prepareAll(ctx, w.conn, w.sql.list()), prepareEntryQueries(ctx, w.conn, w.sql.entryQueries()))
}

// start reads where the clock and the IDs go on.
func (w *writer) start(ctx context.Context, first int64) error {
	var t total
	if err := t.read(w.conn.QueryRowContext(ctx, totalSQL)); err != nil {
		return err
	}
	w.clock = steady.Start(t.clock)
	if t.checksum == nil {
		if _, err := w.conn.ExecContext(ctx, setTotalSQL, t.values()...); err != nil {
			return err
		}
	}
	const query = `SELECT max((SELECT seq FROM sqlite_sequence WHERE name = 'entry'), coalesce((SELECT max(id) FROM entry), 0))`
	var last sql.NullInt64
	if err := w.conn.QueryRowContext(ctx, query).Scan(&last); err != nil {
		return fmt.Errorf("the last ID: %w", err)
	}
	if !last.Valid || last.Int64 < 0 || last.Int64 > store.MaxID {
		return fmt.Errorf("%w: the last ID can't be %d", errDamaged, last.Int64)
	}
	w.last = max(last.Int64, first)
	return w.countCopies(ctx)
}

func (w *writer) release() error {
	return errors.Join(closeEntryQueries(w.sql.entryQueries()), closeAll(w.sql.list()), w.conn.Close())
}

// do runs the job in a transaction, with everything else that is waiting, and returns
// when that is on the disk.
func (w *writer) do(ctx context.Context, run func(*batch) error, size int64) error {
	return w.doRows(ctx, run, size, 1)
}

// doRows is do for a job that adds several rows.
func (w *writer) doRows(ctx context.Context, run func(*batch) error, size int64, rows int) error {
	if size > maxPayload/2 {
		return fmt.Errorf("sqlite: %d bytes at once are too many", size)
	}
	return w.queue.Do(ctx, &task{run: run, rows: rows}, size)
}

func (w *writer) isClosed() bool { return w.queue.IsClosed() }

// close waits for the calls that were accepted. It is called once.
func (w *writer) close() error {
	if w.trust.Failure() == nil { // the clock goes on from here
		last := func(b *batch) error {
			_, err := b.copyClock()
			return err
		}
		if err := w.do(context.Background(), last, 0); err != nil {
			w.options.Logger.Warn("sqlite: where the clock stands couldn't be kept", "error", err)
		}
	}
	w.queue.Close()
	w.checkpoint()
	return w.release()
}

func (w *writer) afterCommit() {
	if w.log.written > w.options.checkpointBytes {
		w.checkpoint()
	}
}

// commit runs the jobs in one transaction and sets the error of each. If the disk has no
// room for that, it may have room for one after the other.
func (w *writer) commit(jobs []*job) {
	err := w.transact(jobs, false)
	for i, j := range jobs {
		if errors.Is(err, store.ErrFull) {
			j.Err = w.transact(jobs[i:i+1], true)
		} else {
			j.Err = err
		}
		j.Err = cmp.Or(j.Err, j.Work.skipped)
	}
}

// damaged ends all trust in the database, which is repaired when it is opened
// again.
func (w *writer) damaged(why error) {
	if w.trust.Failure() != nil {
		return
	}
	if err := w.files.check(); err != nil {
		w.trust.Lose(err)
		return
	}
	if err := w.files.lock.rememberDamage(); err != nil {
		w.options.Logger.Warn("sqlite: the damage couldn't be noted", "error", err)
	}
	w.trust.Lose(fmt.Errorf("to be repaired: %w", why))
}

func (w *writer) transact(jobs []*job, noRoom bool) error {
	if err := w.files.check(); err != nil {
		w.trust.Lose(err)
	}
	if err := w.trust.Failure(); err != nil {
		return err
	}
	b := newBatch(w)
	b.noRoom = w.isDiskFull(jobs) || noRoom // which quotas don't show
	doing, err := "begin", w.exec("BEGIN IMMEDIATE")
	if err == nil {
		doing, err = "write", b.run(jobs)
	}
	if err == nil {
		doing, err = "commit", w.exec("COMMIT")
	}
	if err != nil {
		w.check(err)
		w.rollback()
		w.copies.unlist()
		return cmp.Or(w.trust.Failure(), wrap(doing, err))
	}
	if err := w.files.check(); err != nil { // the commit may have gone to files without a name
		w.trust.Lose(err)
		return w.trust.Failure()
	}
	w.log.add(b.written + rowCost)
	w.last = b.last
	w.keepCopies(b.copies)
	for destination := range b.woken {
		w.waiting.Notify(destination)
	}
	return nil
}

// isDiskFull reports whether the disk has no room to keep these jobs and to
// bring the log into the file after them.
func (w *writer) isDiskFull(jobs []*job) bool {
	need := int64(spareBytes)
	for _, j := range jobs {
		need += 2 * (j.Size + 2*rowCost*int64(j.Work.rows))
	}
	for range 2 {
		free, known := freeSpace(w.files.dir())
		if !known || free > uint64(need+w.log.behind) {
			return false
		}
		w.checkpoint() // there may be room then
	}
	if err := w.files.lock.makeRoom(); err != nil {
		w.options.Logger.Warn("sqlite: giving up the room kept for a full disk failed", "error", err)
	}
	return true
}

// rollback ends a transaction that failed. SQLite has ended it already after
// some errors, and then refuses.
func (w *writer) rollback() {
	err := w.exec("ROLLBACK")
	if err == nil || primaryCode(err) == lib.SQLITE_ERROR {
		return
	}
	w.check(err)
	w.trust.Lose(fmt.Errorf("after a rollback that failed: %w", err))
}

// check ends all trust after a failed fsync, and in a damaged database.
func (w *writer) check(err error) {
	switch {
	case isFailedSync(err):
		w.trust.Lose(fmt.Errorf("after a failed fsync: %w", err))
	case isDamage(err):
		w.damaged(err)
	}
}

func (w *writer) exec(query string) error {
	_, err := w.conn.ExecContext(context.Background(), query)
	return err
}
