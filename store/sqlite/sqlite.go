// Package sqlite keeps mail in one SQLite file: the store of a relay on one
// machine.
//
// # Durability
//
// The file is in WAL mode with synchronous=FULL, so a Put that returned nil
// survives a power cut on a disk that honours fsync. One goroutine writes: it
// takes the calls that have queued up while the last commit was on its way and
// commits them together, so that they share one fsync. A Put that comes alone waits
// for its own fsync and for no timer.
//
// A commit that fails fails every call in it. After a failed fsync the store
// writes no more and answers store.ErrReopen until it was closed and opened
// again, since nobody knows what the disk has; see store.Failing. Opening writes
// and syncs the bytes of the log anew before SQLite reads it, so that nothing is
// built on bytes that the kernel only takes for written.
//
// A full disk is store.ErrFull, and the store goes on when there is room; mail
// is refused while there is still enough to open, to read and to acknowledge.
// For the time when other programs have filled the disk to the last byte, the
// lock file keeps a megabyte, which is given up then and taken again later.
//
// # Files
//
// A file belongs to one Store in one process; a second Open fails. The lock is
// a file beside the database, PATH-lock, which must be left there: it also
// remembers that there is a database. The file must have one name: symbolic
// links are followed, hard links refused.
//
// Open never begins a new database where there was one: if the file is missing,
// empty, cut or something else, it says so and what to do. Restore puts a copy that
// Backup made in its place. By hand, it is put there while no process has the file
// open, and PATH-wal and PATH-shm are removed.
//
// When one of the files is removed, renamed, replaced or cut while the store is
// open, it answers store.ErrReopen from the next write on, and notices within a
// second if there is none. A commit returns only when the files were looked at
// after it. Reading goes on as far as the files that SQLite has open allow.
// Cutting PATH-shm short ends the process, since that file is mapped into its
// memory; nothing is lost by that.
//
// # Damage
//
// Every entry has a checksum and says which one came before it in its mailbox.
// An entry that isn't as it was written is never handed out, changed or taken for
// stored, and Next doesn't pass over entries that a damaged index hides.
//
// Open checks a database of up to 32 MiB whole. Damage that is met while a database
// is in use is noted in PATH-lock, and the store answers store.ErrReopen to writes; it
// reads on, without the index if it must. The next Open repairs it: it finds the
// entries and notes page by page, also if the indexes, the first page or the
// schema are damaged, proves each, and builds a new file, PATH-repair, that takes the
// place of the old one when it is on the disk. That needs as much room again. IDs go on
// after all that were given, the counts are made anew, and entries that were set
// aside aren't counted any more. If something couldn't be read, the old file is kept as
// PATH-damaged, one at most. Repair does the same when it is called, also with
// the rest of a file that was cut, or of one that the disk doesn't give whole.
//
// Notes have no checksum. The log has SQLite's, which can't tell a damaged end from
// one that wasn't written: mail that was only in that end is gone.
//
// # Other programs
//
// Other programs may read the database while it is in use. No checkpoint waits
// for them, but the log can't shrink while one of them reads for long; the store
// warns of that, and store.Measured says how large the log is.
package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/internal/turns"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/aside"
	"github.com/matrixrelay/relay/store/internal/trust"
	"github.com/matrixrelay/relay/store/internal/upkeep"
	"github.com/matrixrelay/relay/store/internal/wake"
)

// Options of a Store. The zero value gives the defaults.
type Options struct {
	// Retention is how long a transaction is remembered after it was
	// acknowledged or expired, so that a copy is recognised. Default 24 hours;
	// negative: not at all.
	Retention time.Duration

	// MaxCopies is how many transactions are remembered for that, MaxCopiesOfOrigin how
	// many of one origin. Beyond that they are forgotten earlier: see store.Store. Those
	// that were remembered before the store was opened, or before a commit that failed,
	// count in MaxCopies alone. Each takes 400 to 1,000 bytes of the file, or up to
	// a page (4 KiB) where mail of that size was removed, since SQLite doesn't merge pages;
	// and 16 bytes of memory. Defaults 1,000,000 and a sixteenth of MaxCopies; negative: no limit.
	MaxCopies, MaxCopiesOfOrigin int64

	// SweepInterval is how often expired mail is removed from the disk. It is
	// never handed out, at any interval. Default one minute; negative: never,
	// unless a Put needs the room.
	SweepInterval time.Duration

	// machineTime is time.Now, if a test doesn't say otherwise. It says where IDs
	// go on, and nothing else.
	machineTime func() time.Time

	// Tests that simulate weeks look at the files less often, those of long logs take
	// shorter ones, and those of a backup that is ended have it rest for longer, or have a
	// shorter log trouble it.
	watchInterval   time.Duration
	checkpointBytes int64
	backupRest      time.Duration // in times of a step
	backupLog       int64

	// Logger is told of entries that can't be read and of failures of the
	// disk. Default: slog.Default().
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	o.Retention = upkeep.Retention(o.Retention)
	if o.machineTime == nil {
		o.machineTime = time.Now
	}
	defaults.Set(&o.watchInterval, watchInterval)
	defaults.Set(&o.checkpointBytes, checkpointBytes)
	defaults.Set(&o.backupLog, backupLog)
	defaults.Set(&o.backupRest, backupRest)
	defaults.Set(&o.Logger, slog.Default())
	return o
}

// A Store is a store.Store on a SQLite file. Make one with Open.
type Store struct {
	options Options
	files   *files
	trust   *trust.Trust
	db      *sql.DB
	reader  *reader
	past    aside.Reader // past damaged entries
	writer  *writer
	waiting wake.Hub

	background sync.WaitGroup
	closing    context.Context // ends with Close
	stop       context.CancelFunc
	backups    turns.Turn // of the Backup that runs

	closeOnce sync.Once
	closeErr  error
}

var (
	_ store.Store   = (*Store)(nil)
	_ store.Timed   = (*Store)(nil)
	_ store.Backups = (*Store)(nil)
)

var errInUse = errors.New("in use by another relay, or by this process already")

// Open opens the file at path, and makes it if there is none, readable for its owner only: that
// of the directory if root opens it. The directory must exist.
func Open(path string, options Options) (*Store, error) {
	s := &Store{options: options.withDefaults(), backups: turns.New()}
	s.trust = trust.New("sqlite", s.options.Logger)
	if err := s.open(path); err != nil {
		return nil, errors.Join(fmt.Errorf("sqlite: open %s: %w", path, err), s.release())
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.closing, s.stop = ctx, cancel
	s.background.Go(func() { upkeep.Loop(ctx, s.options.SweepInterval, s.options.Logger, "sqlite", s.sweep) })
	s.background.Go(func() { s.watchLoop(ctx) })
	return s, nil
}

func (s *Store) open(path string) error {
	path, err := resolve(path)
	if err != nil {
		return err
	}
	if s.files, err = openFiles(path); err != nil {
		return err
	}
	if damage := s.files.damage; damage != nil {
		err = damage
	} else {
		err = s.start()
	}
	if canRepair(err) {
		if err := errors.Join(s.undoStart(), s.repair(err)); err != nil {
			return err
		}
		err = s.start()
	}
	return err
}

// repair makes a new database out of a damaged one.
func (s *Store) repair(why error) error {
	err := repairFile(s.files.path, s.files.lock, store.FirstID(s.options.machineTime()), why, s.options.Logger)
	if err != nil {
		return fmt.Errorf("%w, and it can't be repaired: %w", why, err)
	}
	return nil
}

// start has SQLite open the files.
func (s *Store) start() (err error) {
	if s.db, err = sql.Open("sqlite", dsn(s.files.path)); err != nil {
		return err
	}
	ctx := context.Background()
	if s.writer, err = newWriter(ctx, s.db, s); err != nil {
		return err
	}
	if s.reader, err = newReader(ctx, s.db, s.writer.clock, s.writer.damaged); err != nil {
		return err
	}
	s.writer.pauseReads = s.reader.pause
	if err := cmp.Or(s.files.opened(), s.files.settle(s.options.Logger)); err != nil {
		return err
	}
	s.past = aside.Reader{
		Name: "sqlite",
		Read: s.reader.next, Live: s.reader.live, IsDamage: isDamage, Log: s.options.Logger,
		SetAside: func(ctx context.Context, destination spec.ServerName, id int64) error {
			job := setAsideJob{destination: destination, id: id}
			return s.writer.do(ctx, job.run, 0)
		},
	}
	return nil
}

// resolve returns the one path by which the file is locked, the same through all
// symbolic links that lead to it. The file needn't be there yet.
func resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(path); err == nil {
		return filepath.EvalSymlinks(path)
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.stop()
		s.background.Wait()
		_ = s.backups.Take(context.Background()) // for good
		s.closeErr = s.release()
	})
	return s.closeErr
}

// release gives back everything that open took, as far as it got.
func (s *Store) release() error {
	s.waiting.Close()
	errs := []error{s.releaseSQLite()}
	if s.files != nil {
		errs = append(errs, s.files.close())
	}
	return errors.Join(errs...)
}

// undoStart gives back all that start took, such that neither release nor another
// start comes across it.
func (s *Store) undoStart() error {
	err := s.releaseSQLite()
	s.db, s.writer, s.reader = nil, nil, nil
	return err
}

// releaseSQLite gives back all that start took. It is called once for each start.
func (s *Store) releaseSQLite() error {
	var errs []error
	if s.writer != nil {
		errs = append(errs, s.writer.close())
	}
	if s.reader != nil {
		errs = append(errs, s.reader.close())
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	return errors.Join(errs...)
}
