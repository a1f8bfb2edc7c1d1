package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/matrixrelay/relay/internal/owned"
	"github.com/matrixrelay/relay/store"
)

var _ store.Measured = (*Store)(nil)

// files are the database at path and those beside it.
type files struct {
	path  string
	lock  *lockFile
	watch *watch // nil until SQLite has opened them

	damage error // why the database must be repaired before SQLite opens it
}

func (f *files) dir() string { return filepath.Dir(f.path) }

// check returns an error if something has happened to the files while they were open.
func (f *files) check() error {
	if f.watch == nil {
		return nil
	}
	return f.watch.check()
}

// openFiles prepares the files for SQLite: it makes a database if there never was
// one, and refuses to if there was.
func openFiles(path string) (*files, error) {
	// The lock comes before anything else: to open and close a database that
	// another Store of this process has open would drop SQLite's own locks.
	if err := beforeLock(path, refuseOther); err != nil {
		return nil, err
	}
	lock, err := takeLock(path + lockSuffix)
	if err != nil {
		return nil, err
	}
	f := &files{path: path, lock: lock}
	if err := f.prepare(); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// beforeLock looks at a path that has no lock file, so no Store has it open, before one is made:
// a mistyped path must not get one.
func beforeLock(path string, look func(path string) error) error {
	if locked, err := exists(path + lockSuffix); err != nil || locked {
		return err
	}
	return look(path)
}

// refuseOther refuses a file that has nothing of a relay in it. It may also be missing, or be a
// database without tables: a crash has ended its making then.
func refuseOther(path string) error {
	size, err := sizeOf(path)
	switch {
	case err != nil || size == 0:
		return err
	case size <= pageSize:
		return checkHeader(path, true)
	}
	return checkRepairable(path)
}

func (f *files) prepare() error {
	if err := f.lock.makeRoom(); err != nil {
		return err
	}
	if err := unfinished(f.path, f.lock); err != nil {
		return err
	}
	size, err := sizeOf(f.path)
	if err != nil {
		return err
	}
	logged, err := sizeOf(f.path + "-wal")
	if err != nil {
		return err
	}
	if size > 0 {
		err = f.inspect(logged > 0)
	} else {
		err = f.mayBeNew(logged)
	}
	if err != nil {
		return err
	}
	if err := makeFile(f.path); err != nil {
		return err
	}
	return rewriteLog(f.path + "-wal")
}

// inspect refuses a file that isn't a relay's database. One of which only the first page
// is damaged, or that was found damaged while it was in use, is to be repaired.
func (f *files) inspect(logged bool) error {
	err := checkHeader(f.path, logged)
	if errors.Is(err, errFirstPage) {
		found, readErr := isRelays(f.path, openSalvage)
		if !found || readErr != nil {
			return errors.Join(err, readErr)
		}
		f.damage, err = fmt.Errorf("%w: %w", errDamaged, err), nil
	}
	if err == nil && f.damage == nil && f.lock.isDamaged() {
		f.damage = fmt.Errorf("%w: it was found so while it was in use", errDamaged)
	}
	return err
}

// remedy says what to do when the database is missing, cut or otherwise not as it was.
const remedy = "put it back, or a copy of it without -wal and -shm"

// mayBeNew refuses to make a database where there was one.
func (f *files) mayBeNew(logged int64) error {
	base := filepath.Base(f.path)
	if logged > 0 {
		return fmt.Errorf("the database is missing or empty, but its log %s-wal is there: %s; to begin with an empty one, remove %s-wal, %s-shm and %s-lock",
			base, remedy, base, base, base)
	}
	for _, suffix := range []string{buildSuffix, damagedSuffix} {
		if left, err := exists(f.path + suffix); err != nil || left {
			return cmp.Or(err, fmt.Errorf("the database is missing or empty, but %s%s, which a repair or a restore has left, is there: %s; to begin with an empty one, remove all files whose names begin with %s",
				base, suffix, remedy, base))
		}
	}
	if f.lock.isMade() {
		return fmt.Errorf("the database is missing or empty, but there was one before: %s; to begin with an empty one, remove %s-lock",
			remedy, base)
	}
	return nil
}

// sizeOf is 0 for a file that isn't there.
func sizeOf(path string) (int64, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// makeFile makes a private file if there is none. See owned for root.
func makeFile(path string) error {
	f, err := owned.Create(path, path)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	return checkLinks(path)
}

// opened is called when SQLite has all files open and the database is whole.
func (f *files) opened() (err error) {
	if f.watch, err = newWatch(f.path); err != nil {
		return err
	}
	return f.watch.check()
}

// settle notes that there is a database, and keeps room for a full disk. On one
// that is full already neither keeps the store from being used.
func (f *files) settle(log *slog.Logger) error {
	if err := errors.Join(f.lock.remember(), f.lock.reserve()); err != nil {
		if !isNoSpace(err) {
			return err
		}
		log.Warn("sqlite: the disk is full", "error", err)
	}
	return nil
}

// close gives the lock back. SQLite must have closed the files.
func (f *files) close() error {
	var errs []error
	if f.watch != nil {
		errs = append(errs, f.watch.close())
	}
	return errors.Join(append(errs, f.lock.close())...)
}

// watchInterval is how often the files are looked at while nothing is written.
const watchInterval = time.Second

// watchLoop notices changes of the files while nothing is written, until ctx ends.
func (s *Store) watchLoop(ctx context.Context) {
	ticker := time.NewTicker(s.options.watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.trust.Failed():
			return
		case <-ticker.C:
		}
		if err := s.files.check(); err != nil {
			s.trust.Lose(err)
		}
	}
}

// Sizes implements store.Measured.
func (s *Store) Sizes(ctx context.Context) (sizes store.Sizes, err error) {
	if err := s.usable(ctx); err != nil {
		return store.Sizes{}, err
	}
	for path, size := range map[string]*int64{s.files.path: &sizes.File, s.files.path + "-wal": &sizes.Log} {
		if *size, err = sizeOf(path); err != nil {
			return store.Sizes{}, fmt.Errorf("sqlite: size: %w", err)
		}
	}
	sizes.Copies = s.writer.countedCopies.Load()
	return sizes, nil
}
