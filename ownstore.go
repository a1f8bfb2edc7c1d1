//go:build !relay_nosqlite

package relay

import (
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/sqlite"
)

// openOwnStore opens the store of a Server whose configuration names none. The
// build tag relay_nosqlite leaves it, and with it SQLite, out of the program.
func openOwnStore(config Config) (store.Store, error) {
	return sqlite.Open(config.DatabasePath, sqlite.Options{Logger: config.Logger})
}
