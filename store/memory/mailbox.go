package memory

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// A mailbox is what waits for one destination.
type mailbox struct {
	items   []*item // in the order of their IDs
	gone    int     // how many of items are gone
	held    tally
	origins map[spec.ServerName]tally // only those that have something here
}

// An item is an entry of a mailbox, and what the store notes beside it.
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

// of returns what is counted of the half in which there is a mailbox of that
// name.
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

// expiring is a heap of the items that expire, the next to do so on top. Use
// add, remove and next; the other methods are for container/heap.
type expiring []*item

func (e *expiring) add(it *item) {
	if it.until > 0 {
		heap.Push(e, it)
	}
}

func (e *expiring) remove(it *item) {
	if it.until > 0 {
		heap.Remove(e, it.at)
	}
}

// next removes and returns an item that has expired at now, nil if there is
// none.
func (e *expiring) next(now time.Duration) *item {
	if len(*e) == 0 || (*e)[0].until > now {
		return nil
	}
	return heap.Pop(e).(*item)
}

func (e expiring) Len() int           { return len(e) }
func (e expiring) Less(i, j int) bool { return e[i].until < e[j].until }
func (e expiring) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].at, e[j].at = i, j
}

func (e *expiring) Push(x any) {
	it := x.(*item)
	it.at = len(*e)
	*e = append(*e, it)
}

func (e *expiring) Pop() any {
	last := len(*e) - 1
	it := (*e)[last]
	(*e)[last] = nil
	*e = (*e)[:last]
	return it
}

// A key is what makes two mails the same.
type key struct {
	destination, origin spec.ServerName
	transactionID       gomatrixserverlib.TransactionID
	digest              store.Digest
}

func keyOf(mail *store.Mail) key {
	return key{mail.Destination, mail.Origin, mail.TransactionID, mail.Digest}
}

// copies knows the mail that must not be stored again: what is kept, and what
// left less than the retention ago.
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
