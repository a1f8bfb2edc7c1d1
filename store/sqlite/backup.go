package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	driver "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/matrixrelay/relay/internal/sleep"
	"github.com/matrixrelay/relay/store"
)

const (
	// backupStep is how many pages are copied at once, and backupRest how long, in times
	// of a step, is waited then, so that most of the disk and the processor is for writers.
	backupStep = 64
	backupRest = 2

	// backupSync is after how many steps the copy is synced: a disk that gets all of it
	// at once would hold writers up.
	backupSync = 64

	// backupSpare is how many bytes of the disk a backup leaves free. On the store's own
	// disk mail would be refused else.
	backupSpare = 32 << 20

	// backupLog is how large the log is when a backup doesn't rest any more, and when it ends
	// if that leaves too little of the store's disk. Nothing takes the log's place until the
	// backup is done.
	backupLog = 128 << 20

	// partSuffix is that of a copy that isn't whole.
	partSuffix = "-part"
)

// Backup writes a copy of the store to path, at which there must be no file yet. It has
// everything that was stored before the call, and is as of one moment; when Backup returns
// nil it is durable. Calls of the store go on meanwhile: it works a third of the time, or all
// the time once the log, which grows until it is done, has 128 MiB. One runs at a time,
// others wait. A crash leaves at most PATH-part, which the next Backup to the same path
// removes. It gives store.ErrFull, at once if it can tell, where the disk hasn't room for the
// copy and 32 MiB more, or the store's disk hasn't that room because of the log.
//
// Pages are copied as they are, without a look at them. A store that must be
// reopened refuses. Restore brings the copy back.
func (s *Store) Backup(ctx context.Context, path string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	if err := s.backups.Take(ctx); err != nil {
		return s.endedOr(err)
	}
	defer s.backups.Give()
	if err := cmp.Or(s.trust.Failure(), ctx.Err()); err != nil {
		return s.endedOr(err)
	}
	if err := s.backup(ctx, path); err != nil {
		return s.endedOr(fmt.Errorf("sqlite: backup to %s: %w", path, err))
	}
	return nil
}

// endedOr makes a backup that Close has ended say so.
func (s *Store) endedOr(err error) error {
	if s.closing.Err() != nil {
		return store.ErrClosed
	}
	return err
}

func (s *Store) backup(ctx context.Context, path string) (err error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return cmp.Or(err, fs.ErrExist)
	}
	part := path + partSuffix
	if err := removeAll(part); err != nil { // left by a crash
		return err
	}
	if err := makeFile(part); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeAll(part)) }()
	if err := s.copyTo(ctx, part); err != nil {
		return noRoomOr(err)
	}
	if err := cmp.Or(s.trust.Failure(), checkHeader(part, false)); err != nil {
		return err
	}
	if err := os.Rename(part, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// noRoomOr says that the disk is full if that is so.
func noRoomOr(err error) error {
	if isNoSpace(err) || primaryCode(err) == lib.SQLITE_FULL {
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	}
	return err
}

// leavesRoom returns an error if so many bytes more of a copy would leave too few free.
func leavesRoom(path string, bytes int64) error {
	free, known := freeSpace(filepath.Dir(path))
	if !known || free >= uint64(bytes+backupSpare) {
		return nil
	}
	return fmt.Errorf("%w: the disk has %d bytes free, and must have %d", store.ErrFull, free, bytes+backupSpare)
}

// copyTo copies the database to a file and syncs that.
func (s *Store) copyTo(ctx context.Context, path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := prepareConn(ctx, conn); err != nil {
		return err
	}
	err = pinned(conn, func() error {
		pages, err := pragma[int64](context.Background(), conn, "page_count")
		if err = cmp.Or(err, leavesRoom(path, pages*pageSize)); err != nil {
			return err
		}
		return conn.Raw(func(raw any) error { return s.copyPages(ctx, raw, f) })
	})
	return cmp.Or(err, f.Sync())
}

// pinned does something while the connection reads the database as it is now: else each
// commit would have the copy begin anew.
func pinned(conn *sql.Conn, do func() error) (err error) {
	ctx := context.Background() // the driver would give the connection up
	if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
		return err
	}
	defer func() {
		_, endErr := conn.ExecContext(ctx, "ROLLBACK")
		err = errors.Join(err, endErr)
	}()
	if _, err := pragma[int](ctx, conn, "user_version"); err != nil { // here it begins to read
		return err
	}
	return do()
}

// copyPages copies a database page by page, with rests for others.
func (s *Store) copyPages(ctx context.Context, raw any, f *os.File) (err error) {
	from, ok := raw.(interface {
		NewBackup(to string) (*driver.Backup, error)
	})
	if !ok {
		return fmt.Errorf("the driver's %T makes no backups", raw)
	}
	// It counts for nothing before it is whole.
	to := url.URL{Scheme: "file", OmitHost: true, Path: f.Name(), RawQuery: "_pragma=journal_mode(off)&_pragma=synchronous(off)"}
	b, err := from.NewBackup(to.String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Finish()) }()
	for step := 1; ; step++ {
		began := time.Now()
		more, err := b.Step(backupStep)
		if err != nil || !more {
			return err
		}
		rest, err := s.restAfter(time.Since(began))
		if err == nil && step%backupSync == 0 {
			err = syncWithRoom(f)
		}
		if err != nil {
			return err
		}
		if err := sleep.For(ctx, rest); err != nil {
			return err
		}
	}
}

// restAfter is how long is waited after a step that took so long.
func (s *Store) restAfter(took time.Duration) (time.Duration, error) {
	logged, err := sizeOf(s.files.path + "-wal")
	if err != nil || logged <= s.options.backupLog {
		return s.options.backupRest * took, err
	}
	return 0, leavesRoom(s.files.path, 0)
}

// syncWithRoom syncs a copy that isn't whole, if that leaves enough of its disk.
func syncWithRoom(f *os.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	return leavesRoom(f.Name(), 0)
}
