package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"

	lib "modernc.org/sqlite/lib"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/group"
	"github.com/matrixrelay/relay/store/internal/steady"
	"github.com/matrixrelay/relay/store/internal/wake"
)

const (
	// checkpointBytes is about how much is written between two checkpoints,
	// maxWALPages when readers are made to wait so that the log can start anew.
	checkpointBytes = 16 << 20
	maxWALPages     = 16 << 10

	// About what a row that changes adds to the log, in pages of the file and
	// its indexes.
	pageSize = 4096
	rowCost  = 4 * pageSize

	// spareBytes is what is kept free on the disk for acknowledging and
	// checkpoints when it is too full for mail.
	spareBytes = 1 << 20
)

// A writer is the one goroutine, and the one connection, that writes.
type writer struct {
	options Options
	dir     string
	conn    *sql.Conn
	sql     *statements
	waiting *wake.Hub
	clock   *steady.Clock // is on the disk as of the last commit

	queue *group.Queue[*task]

	// Only the goroutine uses what follows.
	distrust        error              // why the disk isn't trusted any more
	stuck           map[int64]struct{} // rows that can't be removed
	sinceCheckpoint int64
	raise           int64 // see batch
}

type job = group.Job[*task]

// A task is the work of a job.
type task struct {
	run     func(*batch) error
	skipped error // the caller's context's, if it had ended before the task was run
}

func newWriter(ctx context.Context, db *sql.DB, dir string, options Options, waiting *wake.Hub) (*writer, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	w := &writer{
		options: options, dir: dir, conn: conn, sql: &statements{}, waiting: waiting,
		stuck: make(map[int64]struct{}),
	}
	if err := w.setUp(ctx); err != nil {
		return nil, errors.Join(err, w.release())
	}
	w.queue = group.New(w.commit, w.afterCommit)
	return w, nil
}

func (w *writer) setUp(ctx context.Context) error {
	if err := claim(ctx, w.conn); err != nil {
		return err
	}
	if err := prepareConn(ctx, w.conn); err != nil {
		return err
	}
	// What is in the log may never have reached the disk, if the process before
	// us ended after a failed fsync: it is written anew before we build on it.
	if busy, _, err := w.runCheckpoint("TRUNCATE"); err != nil || busy {
		return errors.Join(err, errors.New("the log can't be brought into the file"))
	}
	w.raise = store.FirstID(w.options.machineTime())
	if err := migrate(ctx, w.conn, w.raise); err != nil {
		return err
	}
	var clock int64
	if err := w.conn.QueryRowContext(ctx, "SELECT clock FROM total").Scan(&clock); err != nil {
		return fmt.Errorf("clock: %w", err)
	}
	w.clock = steady.Start(clock)
	return prepareAll(ctx, w.conn, w.sql.list())
}

func (w *writer) release() error {
	return errors.Join(closeAll(w.sql.list()), w.conn.Close())
}

// do runs the job in a transaction, with whatever else is waiting, and returns
// when that is on the disk.
func (w *writer) do(ctx context.Context, run func(*batch) error, size int64) error {
	return w.queue.Do(ctx, &task{run: run}, size)
}

func (w *writer) isClosed() bool { return w.queue.IsClosed() }

// close waits for what was accepted. It is called once.
func (w *writer) close() error {
	w.queue.Close()
	w.checkpoint()
	return w.release()
}

func (w *writer) afterCommit() {
	if w.sinceCheckpoint > checkpointBytes {
		w.checkpoint()
	}
}

// commit runs the jobs in one transaction and sets the error of each. Rows that
// can't be removed because the file is damaged are left alone from then on; if
// a job meets other damage, each is tried alone, so that it fails by itself.
func (w *writer) commit(jobs []*job) {
	err := w.transact(jobs)
	for w.learn(err) {
		err = w.transact(jobs)
	}
	if isDamage(err) && len(jobs) > 1 {
		for _, j := range jobs {
			j.Err = cmp.Or(w.transact([]*job{j}), j.Work.skipped)
		}
		return
	}
	for _, j := range jobs {
		j.Err = cmp.Or(err, j.Work.skipped)
	}
}

// learn notes the row that an error is about, and reports whether that is news.
func (w *writer) learn(err error) bool {
	row, ok := errors.AsType[*damagedRow](err)
	if !ok {
		return false
	}
	if _, known := w.stuck[row.id]; known {
		return false
	}
	w.options.Logger.Error("relay: an entry can't be changed and is left alone", "entry", row.id, "error", row.err)
	w.stuck[row.id] = struct{}{}
	return true
}

func (w *writer) transact(jobs []*job) error {
	if w.distrust != nil {
		return w.distrust
	}
	b := newBatch(w)
	b.noRoom = w.isDiskFull(jobs)
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
		return cmp.Or(w.distrust, wrap(doing, err))
	}
	w.sinceCheckpoint += b.written + rowCost
	w.raise = b.raise
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
		need += 2 * (j.Size + 2*rowCost)
	}
	for range 2 {
		free, known := freeSpace(w.dir)
		if !known || free > uint64(need+w.sinceCheckpoint) {
			return false
		}
		w.checkpoint() // there may be room then
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
	w.distrustAfter("a rollback that failed", err)
}

// check ends all trust in the disk after a failed fsync.
func (w *writer) check(err error) {
	if isFailedSync(err) {
		w.distrustAfter("a failed fsync", err)
	}
}

func (w *writer) distrustAfter(what string, err error) {
	if w.distrust == nil {
		w.distrust = fmt.Errorf("%w after %s: %w", store.ErrReopen, what, err)
		w.options.Logger.Error("relay: the store refuses to write until it is reopened", "error", w.distrust)
	}
}

// checkpoint brings the log into the database file. What is in the log is
// durable already, so nobody waits for this but the next batch. What couldn't
// be brought is tried again when some more was written.
func (w *writer) checkpoint() {
	if w.distrust != nil || w.sinceCheckpoint == 0 {
		return
	}
	busy, pages, err := w.runCheckpoint("PASSIVE")
	if err == nil && pages > maxWALPages {
		busy, _, err = w.runCheckpoint("TRUNCATE")
	}
	if err != nil {
		w.check(err)
		w.options.Logger.Warn("relay: checkpoint failed", "error", err)
	}
	if err != nil || busy {
		w.sinceCheckpoint = min(w.sinceCheckpoint, checkpointBytes/2)
		return
	}
	w.sinceCheckpoint = 0
}

// runCheckpoint returns whether readers kept some of it back, and how many
// pages the log has.
func (w *writer) runCheckpoint(mode string) (busy bool, pages int, err error) {
	var blocked, moved int
	row := w.conn.QueryRowContext(context.Background(), "PRAGMA wal_checkpoint("+mode+")")
	err = row.Scan(&blocked, &pages, &moved)
	return blocked != 0 || moved < pages, pages, err
}

func (w *writer) exec(query string) error {
	_, err := w.conn.ExecContext(context.Background(), query)
	return err
}
