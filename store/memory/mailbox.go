package memory

import (
	"cmp"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// A mailbox is the mail that waits for one destination.
type mailbox struct {
	items   []*item // in the order of their IDs
	gone    int     // how many of items are gone
	held    tally
	origins map[spec.ServerName]tally // only those that have something here
}

// An item is an entry of a mailbox, and the store's own notes on it.
type item struct {
	store.Entry
	until time.Duration // when its lifetime is over, on the store's clock; 0: never
	gone  bool
	at    int // its index in expiring
}

// A tally counts entries and their bytes.
type tally struct{ entries, bytes int64 }

// plus returns t with n times the item.
func (t tally) plus(it *item, n int64) tally {
	return tally{t.entries + n, t.bytes + n*it.Size()}
}

// halves counts the mailboxes of servers and the private ones.
type halves [2]tally

// of returns the tally of the half in which there is a mailbox of that name.
func (h *halves) of(name spec.ServerName) *tally {
	if store.IsPrivate(name) {
		return &h[1]
	}
	return &h[0]
}

func (h *halves) count(it *item, n int64) {
	half := h.of(it.Destination)
	*half = half.plus(it, n)
}

func (b *mailbox) count(it *item, n int64) {
	b.held = b.held.plus(it, n)
	from := b.origins[it.Origin].plus(it, n)
	if from.entries == 0 {
		delete(b.origins, it.Origin)
		return
	}
	b.origins[it.Origin] = from
}

// search finds the item with this ID, or the place where it would be.
func (b *mailbox) search(id int64) (int, bool) {
	return slices.BinarySearchFunc(b.items, id, func(it *item, id int64) int {
		return cmp.Compare(it.ID, id)
	})
}

// sweep drops the items that are gone. Those at the front, which is where Ack
// and most of expiry work, cost nothing that is still there.
func (b *mailbox) sweep() {
	for len(b.items) > 0 && b.items[0].gone {
		b.items[0] = nil
		b.items = b.items[1:]
		b.gone--
	}
	if b.gone > 0 {
		b.items = slices.DeleteFunc(b.items, func(it *item) bool { return it.gone })
		b.gone = 0
	}
}

// Before says which of two items expires first.
func (it *item) Before(other *item) bool { return it.until < other.until }

// Index is the place in the heap of an item that expires.
func (it *item) Index() *int { return &it.at }
