package sqlite

import (
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// halves are the counts of the mailboxes of servers, and of the private ones.
type halves [2]counts

// of returns the counts of the half in which there is a mailbox of that name.
func (h *halves) of(name spec.ServerName) *counts {
	if store.IsPrivate(name) {
		return &h[1]
	}
	return &h[0]
}

// scan are the columns of the table total without the clock, in their order.
func (h *halves) scan() []any {
	return []any{
		&h[0].entries, &h[0].bytes, &h[0].setAside,
		&h[1].entries, &h[1].bytes, &h[1].setAside,
	}
}

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
