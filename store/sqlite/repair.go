package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/matrixrelay/relay/store"
)

// A repair builds a new database from all that can be read of a damaged one, and puts
// it into its place. Until then the damaged one stays as it is, so a crash at any
// point is harmless.
type repair struct {
	path  string
	lock  *lockFile
	first int64 // see store.FirstID
	from  *salvage

	conn   *sql.Conn
	insert *sql.Stmt
	note   *sql.Stmt

	live, gone, notes int
	lastID            int64
	lastMailbox       int64
}

// repairFile repairs the database at path, which nobody may have open. It says
// in one line of the log how that went.
func repairFile(path string, lock *lockFile, first int64, why error, log *slog.Logger) error {
	r := &repair{path: path, lock: lock, first: first}
	repaired, err := r.run(openSalvage)
	if err != nil {
		return err
	}
	log = log.With("kept", repaired.Kept, "remembered", repaired.Remembered, "notes", repaired.Notes,
		"unreadable", repaired.Unreadable, "broken_pages", repaired.BrokenPages, "damage", why)
	if repaired.Damaged == "" {
		log.Warn("sqlite: the database was damaged, and is repaired without a loss")
	} else {
		log.Error("sqlite: the database was damaged, and is repaired as far as it could be read",
			"damaged", filepath.Base(repaired.Damaged))
	}
	return nil
}

func (r *repair) run(open opener) (repaired Repaired, err error) {
	if err := fold(r.path); err != nil {
		return repaired, fmt.Errorf("bring the log into the damaged database: %w", err)
	}
	if err := checkNotNewer(r.path); err != nil {
		return repaired, err
	}
	if r.from, err = open(r.path); err != nil {
		return repaired, err
	}
	isCut, err := r.from.isShort()
	if err != nil {
		return repaired, errors.Join(err, r.from.close())
	}
	// Some systems don't rename a file that is open.
	if err := errors.Join(r.build(), r.from.close(), removeBuild(r.path, "-wal", "-shm", "-journal")); err != nil {
		return repaired, errors.Join(err, removeBuild(r.path, ""))
	}
	repaired = Repaired{
		Kept: r.live, Remembered: r.gone, Notes: r.notes,
		Unreadable: r.from.lost, BrokenPages: len(r.from.broken), UnreadPages: len(r.from.unread), Cut: isCut,
	}
	if repaired.isLoss() {
		repaired.Damaged = r.path + damagedSuffix
	}
	return repaired, r.replace(repaired.Damaged != "")
}

// fold has SQLite bring the log into the file, also if its tables are damaged.
func fold(path string) (err error) {
	logged, err := sizeOf(path + "-wal")
	if err != nil || logged == 0 {
		return errors.Join(err, removeAll(path+"-wal", path+"-shm"))
	}
	if err := writeHeader(path); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("PRAGMA writable_schema = 1; PRAGMA synchronous = 2"); err != nil {
		return err
	}
	var c checkpointed
	if err := db.QueryRow("PRAGMA wal_checkpoint(TRUNCATE)").Scan(&c.busy, &c.frames, &c.moved); err != nil {
		return err
	}
	if logged, err = sizeOf(path + "-wal"); err == nil && logged > 0 {
		err = errors.New("it stays, since another program reads the database or its first page can't be read")
	}
	return err
}

// build writes the new database and syncs it.
func (r *repair) build() (err error) {
	path := r.path + buildSuffix
	if err := makeBuild(r.path); err != nil {
		return err
	}
	if err := r.fill(path); err != nil {
		return fmt.Errorf("build %s: %w", filepath.Base(path), err)
	}
	return syncFile(path)
}

func (r *repair) fill(path string) (err error) {
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	ctx := context.Background()
	if r.conn, err = db.Conn(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.conn.Close()) }()
	// It counts for nothing before it is whole.
	const setUp = `PRAGMA auto_vacuum = 2; PRAGMA journal_mode = OFF; PRAGMA synchronous = 0; PRAGMA locking_mode = EXCLUSIVE`
	if _, err := r.conn.ExecContext(ctx, setUp); err != nil {
		return err
	}
	if err := migrate(ctx, r.conn, r.first); err != nil {
		return err
	}
	if _, err := r.conn.ExecContext(ctx, "BEGIN"); err != nil {
		return err
	}
	if err := r.move(ctx); err != nil {
		return err
	}
	_, err = r.conn.ExecContext(ctx, "COMMIT")
	return err
}

// move brings over all that can be read.
func (r *repair) move(ctx context.Context) (err error) {
	list := []preparation{
		{&r.insert, `INSERT INTO entry (` + entryColumns + `) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`},
		{&r.note, `INSERT INTO note (key, value) VALUES (?, ?) ON CONFLICT DO NOTHING`},
	}
	defer func() { err = errors.Join(err, closeAll(list)) }()
	if err := prepareAll(ctx, r.conn, list); err != nil {
		return err
	}
	if err := r.from.scan(r.moveNote); err != nil {
		return err
	}
	return cmp.Or(r.moveEntries(), r.moveBroken(), r.count(ctx))
}

func (r *repair) moveNote(n store.Note) error {
	r.notes++
	_, err := r.note.Exec(n.Key, n.Value)
	return err
}

// moveEntries goes through the pages that hold entries, in the order of their
// IDs.
func (r *repair) moveEntries() error {
	slices.SortFunc(r.from.leaves, func(a, b leaf) int { return cmp.Compare(a.first, b.first) })
	var p page
	for _, leaf := range r.from.leaves {
		if err := r.from.read(leaf.page, &p); err != nil {
			return err
		}
		cells, _ := p.cells(0)
		cells = slices.DeleteFunc(cells, func(c cell) bool { return !c.isRecord() }) // scan has counted them
		moved, err := r.moveCells(cells)
		if err != nil {
			return err
		}
		r.from.lost += len(cells) - moved
	}
	return nil
}

// moveBroken looks for rows on pages that aren't whole. They come last: of those
// that are there twice, the other one is newer.
func (r *repair) moveBroken() error {
	var p page
	for _, n := range r.from.broken {
		if err := r.from.read(n, &p); err != nil {
			return err
		}
		if _, err := r.moveCells(p.anywhere()); err != nil {
			return err
		}
	}
	return nil
}

func (r *repair) moveCells(cells []cell) (moved int, err error) {
	for _, c := range cells {
		row, err := r.from.entry(c)
		if err != nil {
			return moved, err
		}
		if row == nil || row.checksum&sealsID == 0 && row.id > max(r.first, r.from.sequences["entry"]) {
			continue
		}
		moved++
		if err := r.keep(row); err != nil {
			return moved, err
		}
	}
	return moved, nil
}

func (r *repair) keep(row *entryRow) error {
	added, err := r.add(row)
	if err == nil && !added && row.state != gone {
		if added, err = r.makeWay(row); added && err == nil {
			added, err = r.add(row)
		}
	}
	if err != nil || !added {
		return err
	}
	r.lastID, r.lastMailbox = max(r.lastID, row.id), max(r.lastMailbox, row.mailbox)
	if row.state == gone {
		r.gone++
		return nil
	}
	r.live++
	return r.name(row)
}

// add reports whether the row, or the same mail, wasn't there.
func (r *repair) add(row *entryRow) (bool, error) {
	result, err := r.insert.Exec(row.id, row.mailbox, row.key, row.state, row.until, row.size, string(row.mail.Origin),
		string(row.mail.TransactionID), row.digest, row.checksum, row.mail.Proof, row.mail.Body, row.prev)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

// makeWay forgets that mail was acknowledged if it was stored again since, and
// reports whether it did: that happens where the index of copies was damaged.
func (r *repair) makeWay(row *entryRow) (bool, error) {
	const query = `DELETE FROM entry WHERE copy_key = ? AND state = ? AND id < ?`
	result, err := r.conn.ExecContext(context.Background(), query, row.key, gone, row.id)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

// name makes the mailbox of a row that is live.
func (r *repair) name(row *entryRow) error {
	const query = `INSERT INTO mailbox (id, destination, entries, bytes, set_aside, last) VALUES (?, ?, 0, 0, 0, 0) ON CONFLICT DO NOTHING`
	_, err := r.conn.ExecContext(context.Background(), query, row.mailbox, string(row.mail.Destination))
	return err
}

// count makes the counts anew, and sets the IDs and the clock, which must not begin anew.
func (r *repair) count(ctx context.Context) error {
	for _, query := range []string{
		`UPDATE mailbox SET (entries, bytes, last) = (SELECT count(*), sum(size), max(id) FROM entry
			WHERE entry.mailbox = mailbox.id AND state = 0)`,
		`INSERT INTO share SELECT mailbox, origin, count(*), sum(size) FROM entry WHERE state = 0 GROUP BY mailbox, origin`,
		`INSERT INTO sqlite_sequence (name, seq) SELECT 'mailbox', 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'mailbox')`,
	} {
		if _, err := r.conn.ExecContext(ctx, query); err != nil {
			return err
		}
	}
	for name, last := range map[string]int64{"entry": r.lastID, "mailbox": r.lastMailbox} {
		const query = `UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?`
		if _, err := r.conn.ExecContext(ctx, query, max(last, r.from.sequences[name]), name); err != nil {
			return err
		}
	}
	return r.setTotal(ctx)
}

// usualLifetime is the lifetime of most mail, in milliseconds.
const usualLifetime = 30 * 24 * 60 * 60 * 1000

// setTotal sums the mailboxes up.
func (r *repair) setTotal(ctx context.Context) error {
	t := total{clock: r.from.clock}
	for i, where := range []string{"destination < ? OR destination >= ?", "destination >= ? AND destination < ?"} {
		c := &t.halves[i]
		const query = `SELECT coalesce(sum(entries), 0), coalesce(sum(bytes), 0) FROM mailbox WHERE `
		if err := r.conn.QueryRowContext(ctx, query+where, private, afterPrivate).Scan(&c.entries, &c.bytes); err != nil {
			return err
		}
	}
	if t.clock < 0 {
		var err error
		if t.clock, err = r.lostClock(ctx); err != nil {
			return err
		}
	}
	_, err := r.conn.ExecContext(ctx, setTotalSQL, t.values()...)
	return err
}

// lostClock is where the clock goes on if total can't be read: at its copy, or else
// before all mail that has the usual lifetime was put, since the machine's clock may be
// wrong. Mail that is kept for longer than it must be does less harm than mail that
// expires early.
func (r *repair) lostClock(ctx context.Context) (int64, error) {
	var until int64
	const query = `SELECT coalesce(min(until), ?) FROM entry WHERE state = 0`
	if err := r.conn.QueryRowContext(ctx, query, int64(math.MaxInt64)).Scan(&until); err != nil {
		return 0, err
	}
	if at, isKnown := r.from.sequences[clockName]; isKnown {
		return min(at, until-1), nil
	}
	return max(min(max(r.first, r.lastID)/1000, until-1-usualLifetime), 0), nil
}

// replace puts the new database into the place of the damaged one, which it may
// keep beside it.
func (r *repair) replace(keep bool) error {
	// The log was brought into the damaged one, and would be brought into the new one, too.
	if err := removeAll(r.path+"-wal", r.path+"-shm"); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(r.path)); err != nil {
		return err
	}
	suffix := ""
	if keep {
		suffix = damagedSuffix
	}
	return replace(r.path, r.lock, suffix)
}

func syncFile(path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
