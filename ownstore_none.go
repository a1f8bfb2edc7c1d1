//go:build relay_nosqlite

package relay

import (
	"errors"

	"github.com/matrixrelay/relay/store"
)

// openOwnStore says that there is none to open: see the other openOwnStore.
func openOwnStore(Config) (store.Store, error) {
	return nil, errors.New("Config.Store is nil, and the build tag relay_nosqlite has left SQLite out")
}
