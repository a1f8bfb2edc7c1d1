package sqlite

import (
	"errors"
	"fmt"

	driver "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/matrixrelay/relay/store"
)

// wrap adds the step that failed to an error, and store.ErrFull if the disk is full.
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

// errDamaged says that the database isn't as this program wrote it.
var errDamaged = errors.New("the database is damaged")

// isDamage reports whether the error comes from the content of the file, not from the
// disk or the connection. No statement of ours can break a constraint.
func isDamage(err error) bool {
	switch primaryCode(err) {
	case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB, lib.SQLITE_MISMATCH, lib.SQLITE_CONSTRAINT:
		return true
	}
	return errors.Is(err, errDamaged)
}

// canRepair reports whether an error of opening is one that a repair mends. Tables
// or columns that aren't there are damage of the schema.
func canRepair(err error) bool { return isDamage(err) || primaryCode(err) == lib.SQLITE_ERROR }
