package jetstream

import (
	"math"

	"github.com/matrixrelay/relay/store"
)

// admits reports whether the store may hold one more entry of that size. While
// others take mail away, all shards together may be read as a little more than
// there ever was at one moment, and then mail is refused that would just fit.
func (b *batch) admits(l store.Limits, size int64) (bool, error) {
	if err := b.loadShard(b.shard); err != nil {
		return false, err
	}
	limit, own := amount{most(l.StoreEntries), most(l.StoreBytes)}, b.shards[b.shard].value
	if !b.recounted && own.limit.within(limit) && b.ownWith(size).within(own.grant) {
		return true, nil
	}
	if err := b.loadShards(); err != nil {
		return false, err
	}
	held := b.held()
	spare := amount{limit.entries - held.entries - 1, limit.bytes - held.bytes - size}
	if spare.entries < 0 || spare.bytes < 0 {
		return false, nil
	}
	if !b.recounted && own.limit.within(limit) && b.borrow(b.ownWith(size)) {
		return true, nil
	}
	b.grant(limit, b.ownWith(size), spare)
	return true, nil
}

// borrow takes half of what another shard may still put, if that is enough: of the
// one that was written to the longest ago. It asks for less than a batch that
// writes all shards, which is refused as long as others store anything.
func (b *batch) borrow(needs amount) bool {
	own := b.shards[b.shard].value
	var from *record[shard]
	var half amount
	for i, s := range b.shards {
		spare := amount{(s.value.grant.entries - s.value.entries) / 2, (s.value.grant.bytes - s.value.bytes) / 2}
		enough := needs.within(amount{own.grant.entries + spare.entries, own.grant.bytes + spare.bytes})
		if i != b.shard && enough && (from == nil || s.seq < from.seq) {
			from, half = s, spare
		}
	}
	if from == nil {
		return false
	}
	from.value.grant = amount{from.value.grant.entries - half.entries, from.value.grant.bytes - half.bytes}
	own.grant = amount{own.grant.entries + half.entries, own.grant.bytes + half.bytes}
	from.changed = true
	return true
}

// ownWith is what this process's shard counts with one more entry of that size.
func (b *batch) ownWith(size int64) amount {
	own := b.shards[b.shard].value
	return amount{own.entries + b.change.entries + 1, own.bytes + b.change.bytes + size}
}

// most is a limit as store.Limits has it, where none is zero or less.
func most(limit int64) int64 {
	if limit <= 0 {
		return math.MaxInt64
	}
	return limit
}

// grant divides what is spare among all shards. This process's gets what it
// needs in any case, and what can't be divided.
func (b *batch) grant(limit, needs, spare amount) {
	b.recounted = false
	b.changeShards()
	each := amount{spare.entries / shards, spare.bytes / shards}
	for i, s := range b.shards {
		s.value.limit = limit
		if i != b.shard {
			s.value.grant = amount{s.value.entries + each.entries, s.value.bytes + each.bytes}
			spare.entries, spare.bytes = spare.entries-each.entries, spare.bytes-each.bytes
		}
	}
	b.shards[b.shard].value.grant = amount{needs.entries + spare.entries, needs.bytes + spare.bytes}
}
