package sqlite

import (
	"errors"
	"fmt"

	driver "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/matrixrelay/relay/store"
)

// wrap says what was being done, and that the disk is full if that is why.
func wrap(doing string, err error) error {
	if primaryCode(err) == lib.SQLITE_FULL {
		return fmt.Errorf("sqlite: %s: %w: %w", doing, store.ErrFull, err)
	}
	return fmt.Errorf("sqlite: %s: %w", doing, err)
}

// code is SQLite's extended result code, 0 if the error isn't SQLite's.
func code(err error) int {
	var e *driver.Error
	if errors.As(err, &e) {
		return e.Code()
	}
	return 0
}

func primaryCode(err error) int { return code(err) & 0xff }

// isFailedSync reports whether the kernel failed to bring data to the disk. It
// may have dropped the pages, and a later fsync that succeeds says nothing
// about them.
func isFailedSync(err error) bool {
	switch code(err) {
	case lib.SQLITE_IOERR_FSYNC, lib.SQLITE_IOERR_DIR_FSYNC:
		return true
	}
	return false
}

// isDamage reports whether the error comes from one piece of data, such as what
// the file holds in one place, not from the disk or the connection as a whole.
func isDamage(err error) bool {
	switch primaryCode(err) {
	case lib.SQLITE_CORRUPT, lib.SQLITE_MISMATCH, lib.SQLITE_CONSTRAINT, lib.SQLITE_TOOBIG:
		return true
	}
	return false
}

// damaged says which entry an error is about, if it comes from damage.
func damaged(id int64, err error) error {
	switch {
	case err == nil:
		return nil
	case isDamage(err):
		return &damagedRow{id, err}
	default:
		return fmt.Errorf("entry %d: %w", id, err)
	}
}

// A damagedRow is an entry that SQLite can't read or change.
type damagedRow struct {
	id  int64
	err error
}

func (d *damagedRow) Error() string { return fmt.Sprintf("entry %d: %v", d.id, d.err) }
func (d *damagedRow) Unwrap() error { return d.err }
