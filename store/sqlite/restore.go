package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// RestoreOptions are those of Restore. The zero value replaces nothing.
type RestoreOptions struct {
	// Replace says that the copy may take the place of a database. That is kept, with its
	// log, as PATH-before, where there must be none yet: it has mail that the copy lacks.
	Replace bool

	// Progress, if not nil, is told how many bytes of the copy are there.
	Progress func(done, all int64)
}

// Restore puts a copy that Backup made in the place of the database at path, which nobody
// may have open; the copy stays where it is. It gives fs.ErrExist if there is a database
// and it may not be replaced. A crash at any moment, also one of the machine, leaves the
// old state or the new one for the next Open. If root restores, the files belong to the
// owner of the database that was there, or else of the folder.
//
// Open, later, has entry IDs go on after all that were given before, and repairs the copy
// if it is damaged.
func Restore(ctx context.Context, backup, path string, o RestoreOptions) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("sqlite: restore %s from %s: %w", path, backup, err)
		}
	}()
	if err := checkBackup(backup); err != nil {
		return fmt.Errorf("the backup: %w", err)
	}
	refuse := func(path string) error {
		if isThere, err := hasDatabase(path); err != nil || !isThere || o.Replace {
			return err
		}
		return fmt.Errorf("there is a database: %w", fs.ErrExist)
	}
	return exclusively(path, refuse, func(path string, lock *lockFile) error {
		isThere, err := hasDatabase(path)
		if err != nil {
			return err
		}
		if isThere {
			if err := checkNoneBefore(path); err != nil {
				return err
			}
		}
		if err := buildCopy(ctx, backup, path, o.Progress); err != nil {
			return errors.Join(noRoomOr(err), removeBuild(path, ""))
		}
		keep := ""
		if isThere {
			keep = beforeSuffix
		} else if err := removeAll(path+"-wal", path+"-shm"); err != nil { // they are empty
			return err
		}
		if err := replace(path, lock, keep); err != nil {
			return err
		}
		return lock.remember()
	})
}

// exclusively does something with a database that nobody has open, after it has finished any
// work that a crash has ended. The path is resolved. Refuse says why it can't be done: it is
// asked then, and also before a lock file is made, since a mistyped path must not get one.
func exclusively(path string, refuse func(path string) error, do func(path string, lock *lockFile) error) (err error) {
	if path, err = resolve(path); err != nil {
		return err
	}
	if err := beforeLock(path, refuse); err != nil {
		return err
	}
	lock, err := takeLock(path + lockSuffix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.close()) }()
	if err := lock.makeRoom(); err != nil {
		return err
	}
	if err := cmp.Or(unfinished(path, lock), refuse(path)); err != nil {
		return err
	}
	return do(path, lock)
}

// checkNoneBefore refuses to replace a second database while the first is kept: a restore
// that is done again, since it was ended or the backup was the wrong one, would remove all
// mail that came since the backup.
func checkNoneBefore(path string) error {
	for _, suffix := range []string{beforeSuffix, beforeSuffix + "-wal"} {
		kept, err := exists(path + suffix)
		if err != nil {
			return err
		}
		if kept {
			name := filepath.Base(path) + suffix
			return fmt.Errorf("%s, the database that an earlier restore has replaced, is there: remove it, or move it away if its mail is to be kept", name)
		}
	}
	return nil
}

// hasDatabase reports whether there is a database, or the log of one.
func hasDatabase(path string) (bool, error) {
	size, err := sizeOf(path)
	logged, logErr := sizeOf(path + "-wal")
	return size > 0 || logged > 0, cmp.Or(err, logErr)
}

// checkBackup refuses a file that isn't a whole copy of a relay's database, or that a
// store has open.
func checkBackup(path string) error {
	logged, err := sizeOf(path + "-wal")
	if err != nil {
		return err
	}
	if logged > 0 {
		return fmt.Errorf("it has a log beside it, %s-wal, so it is a database and no copy that relay backup made", filepath.Base(path))
	}
	locked, err := exists(path + lockSuffix)
	if err != nil {
		return err
	}
	if locked {
		lock, err := takeLock(path + lockSuffix)
		if err != nil {
			return err
		}
		defer func() { _ = lock.close() }() // nothing was written
	}
	if err := checkHeader(path, false); err != nil {
		return err
	}
	return cmp.Or(checkMarked(path), checkNotNewer(path))
}

// copyStep is how much of a file is copied between two looks at the context.
const copyStep = 4 << 20

// buildCopy copies a backup to the place where databases are built, and syncs it.
func buildCopy(ctx context.Context, backup, path string, progress func(done, all int64)) (err error) {
	from, err := os.Open(backup)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if err := makeBuild(path); err != nil {
		return err
	}
	to, err := os.OpenFile(path+buildSuffix, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	for done := int64(0); done < info.Size(); {
		n, err := io.CopyN(to, from, min(copyStep, info.Size()-done))
		if err = cmp.Or(err, ctx.Err()); err != nil {
			return err
		}
		if done += n; progress != nil {
			progress(done, info.Size())
		}
	}
	if err := to.Sync(); err != nil {
		return err
	}
	return checkHeader(path+buildSuffix, false)
}
