package policy

import (
	"math"
	"time"

	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/store"
)

// Room is the room that mail may take.
type Room struct {
	// Limits are those of the store. If they are exceeded and Spare isn't nil, Spare
	// is tried in their place.
	Limits store.Limits
	Spare  *store.Limits

	// Lifetime is how long the mail is kept, 0 for ever.
	Lifetime time.Duration
}

// A Size is so much mail. Zero stands for the default.
type Size struct{ Entries, Bytes int64 }

func (s Size) or(otherwise Size) Size {
	defaults.Set(&s.Entries, otherwise.Entries)
	defaults.Set(&s.Bytes, otherwise.Bytes)
	return s
}

// shrinkLifetime makes the lifetime no longer than that.
func (r *Room) shrinkLifetime(lifetime time.Duration) {
	if r.Lifetime <= 0 || lifetime < r.Lifetime {
		r.Lifetime = lifetime
	}
}

// shrinkTo makes the limits of the mailbox no larger than that, and those of an origin
// in the same proportion.
func (r *Room) shrinkTo(size Size) {
	l := &r.Limits
	l.Entries, l.OriginEntries = shrink(l.Entries, l.OriginEntries, size.Entries)
	l.Bytes, l.OriginBytes = shrink(l.Bytes, l.OriginBytes, size.Bytes)
}

func shrink(box, origin, most int64) (newBox, newOrigin int64) {
	switch {
	case box <= 0:
		return most, origin
	case box <= most:
		return box, origin
	case origin <= 0:
		return most, origin
	}
	return most, max(1, int64(float64(most)*float64(origin)/float64(box)))
}

// promise makes it the room of a mailbox that has so much in any case, and more if
// there is room to spare.
func (r *Room) promise(size Size, p parts) {
	spare := r.Limits
	spare.StoreEntries, spare.StoreBytes = p.spare.Entries, p.spare.Bytes
	r.Spare = &spare
	r.shrinkTo(size)
}

// A division is how a store is divided. Three parts never get in each other's way: the
// promised one, the one that unclaimed mailboxes share, and the one for claimed
// mailboxes that go over their promise, which they do only while the whole store holds
// less than that last part.
type division struct {
	promise             Size    // to each mailbox that is claimed
	promised, unclaimed float64 // parts of the whole
	without             Size    // for all unclaimed mailboxes if the store has no limit
}

// parts are a division in numbers.
type parts struct {
	claims    int  // that find room
	unclaimed Size // for all unclaimed mailboxes
	spare     Size // up to where claimed ones go over their promise; 0 is no limit
}

// of divides a store that has these limits.
func (d division) of(l store.Limits) parts {
	p := parts{claims: math.MaxInt, unclaimed: d.without}
	divide := func(whole, each int64, unclaimed, spare *int64) {
		if whole <= 0 {
			return
		}
		promised := int64(float64(whole) * d.promised)
		p.claims = int(min(int64(p.claims), promised/each))
		*unclaimed = int64(float64(whole) * d.unclaimed)
		*spare = max(whole-promised-*unclaimed, 1)
	}
	divide(l.StoreEntries, d.promise.Entries, &p.unclaimed.Entries, &p.spare.Entries)
	divide(l.StoreBytes, d.promise.Bytes, &p.unclaimed.Bytes, &p.spare.Bytes)
	return p
}
