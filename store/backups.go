package store

import "context"

// Backups is an ability that stores may have beside Store: to copy themselves while
// they are in use. Its method is safe for concurrent use.
type Backups interface {
	// Backup writes a copy to path, at which there must be no file yet. It has everything
	// that was stored before the call, and is as of one moment. When Backup returns nil,
	// the copy survives a power cut. Calls of the store go on meanwhile. Where there is no
	// room for it, Backup gives ErrFull.
	Backup(ctx context.Context, path string) error
}
