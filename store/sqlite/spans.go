package sqlite

import (
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// A span is names from one on, up to another one that isn't in it.
type span struct {
	from string
	to   any
}

// Private names are between these two; more is greater than every text.
const (
	private      = string(store.PrivateHalf)
	afterPrivate = "\x7f"
)

var more = []byte{0}

// spansAfter are the names of the half that a name is in and that are greater.
func spansAfter(name spec.ServerName) []span {
	next := string(name) + "\x00"
	switch {
	case store.IsPrivate(name):
		return []span{{next, afterPrivate}}
	case string(name) < private:
		return []span{{next, private}, {afterPrivate, more}}
	default:
		return []span{{next, more}}
	}
}
