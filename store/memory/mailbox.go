package memory

import (
	"cmp"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
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

// A key tells mails apart: copies have the same one.
type key struct {
	destination, origin spec.ServerName
	transactionID       gomatrixserverlib.TransactionID
	digest              store.Digest
}

func keyOf(mail *store.Mail) key {
	return key{mail.Destination, mail.Origin, mail.TransactionID, mail.Digest}
}

// copies knows the mail that must not be stored again: mail that is kept, and mail
// that left less than the retention ago.
type copies struct {
	known   map[key]struct{}
	leaving []leaving // in the order of until
}

type leaving struct {
	key   key
	until time.Duration
}

func (c *copies) has(k key) bool {
	_, known := c.known[k]
	return known
}

func (c *copies) remember(k key) { c.known[k] = struct{}{} }

// forgetAt says when a key may be forgotten: not before any that it was said
// of earlier.
func (c *copies) forgetAt(k key, until time.Duration) {
	c.leaving = append(c.leaving, leaving{k, until})
}

func (c *copies) forget(now time.Duration) {
	for len(c.leaving) > 0 && c.leaving[0].until <= now {
		delete(c.known, c.leaving[0].key)
		c.leaving[0] = leaving{}
		c.leaving = c.leaving[1:]
	}
}
