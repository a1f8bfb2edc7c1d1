package sqlite

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/matrixrelay/relay/store"
)

// Repaired says how a repair went.
type Repaired struct {
	// Kept counts the entries that were kept, Remembered those that are remembered so that
	// copies are recognised, and Notes the notes.
	Kept, Remembered, Notes int

	// Unreadable counts rows that were found and couldn't be read, BrokenPages the pages
	// whose form is damaged, and UnreadPages those that the disk didn't give. How much was on
	// such pages isn't known; rows of broken ones that prove themselves are kept.
	Unreadable, BrokenPages, UnreadPages int

	// Cut says that the end of the file was missing. How much was in it isn't known either.
	Cut bool

	// Damaged is the path of the damaged file, which is kept if something is lost; else it
	// is empty.
	Damaged string
}

func (r *Repaired) isLoss() bool {
	return r.Unreadable > 0 || r.BrokenPages > 0 || r.UnreadPages > 0 || r.Cut
}

// Repair builds the database at path, which nobody may have open, anew from all that can
// be read of it, and puts that in its place. Open does it by itself when it finds damage;
// Repair does it at any rate, and with files that Open refuses: ones that were cut, or of
// which the disk doesn't give all. A crash at any moment leaves the old state or the new
// one for the next Open.
func Repair(path string) (repaired Repaired, err error) {
	err = exclusively(path, checkRepairable, func(path string, lock *lockFile) error {
		r := &repair{path: path, lock: lock, first: store.FirstID(time.Now())}
		if repaired, err = r.run(openImpatient); err != nil {
			return noRoomOr(err)
		}
		return lock.remember()
	})
	if err != nil {
		return repaired, fmt.Errorf("sqlite: repair %s: %w", path, err)
	}
	return repaired, nil
}

// checkRepairable refuses files that have nothing of a relay in them.
func checkRepairable(path string) error {
	size, err := sizeOf(path)
	if err != nil {
		return err
	}
	if size == 0 {
		return fmt.Errorf("%s is missing or empty", filepath.Base(path))
	}
	damage := cmp.Or(checkHeader(path, true), checkMarked(path))
	if damage == nil {
		return nil
	}
	found, err := isRelays(path, openImpatient)
	if found && err == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("nothing of a relay is in it: %w", damage), err)
}
