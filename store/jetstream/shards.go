package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/matrixrelay/relay/store"
)

// shards is in how many parts the whole store is counted.
const shards = 8

// A shard counts what the processes that use it have put, less what they have
// taken away, which others may have put. Every commit writes one, so the commits
// of processes that use different shards don't meet there.
//
// What a shard's entries and bytes may grow to without a look at the others is
// its grant. All shards have the same limit, which their grants together keep to.
// Whoever needs more takes from another shard, or divides what is left anew, as
// does who has a lower limit: that writes all shards, in one commit.
type shard struct {
	counts
	top   int64 // the largest ID that was given to an entry of any mailbox
	limit amount
	grant amount
}

type amount struct{ entries, bytes int64 }

func (a amount) within(b amount) bool { return a.entries <= b.entries && a.bytes <= b.bytes }

func (s *shard) encode() []byte {
	e := newEncoder(48)
	e.signed(s.entries, s.bytes, s.aside, s.top, s.limit.entries, s.limit.bytes, s.grant.entries, s.grant.bytes)
	return e.b
}

// decodeShard returns an empty one if there is none.
func decodeShard(b []byte) (*shard, error) {
	if len(b) == 0 {
		return &shard{}, nil
	}
	d := newDecoder(b)
	s := &shard{
		counts: counts{entries: d.signed(), bytes: d.signed(), aside: d.signed()},
		top:    d.signed(),
		limit:  amount{entries: d.signed(), bytes: d.signed()},
		grant:  amount{entries: d.signed(), bytes: d.signed()},
	}
	return s, cmp.Or(d.end(), s.check())
}

// check returns an error if the numbers can't be those of a store, so that sums
// of them are what they should be.
func (s *shard) check() error {
	for _, n := range []int64{s.entries, s.bytes, s.aside} {
		if n > math.MaxInt64/4/shards || n < -math.MaxInt64/4/shards {
			return errCodec
		}
	}
	if s.top < 0 || s.top > store.MaxID {
		return errCodec
	}
	return nil
}

// loadShard reads a shard. While none was ever written it has nothing.
func (b *batch) loadShard(i int) error {
	m, err := b.message(b.subjects.shard(i), true)
	if err != nil || b.shards[i] != nil {
		return err
	}
	value, bad := decodeShard(m.data)
	if bad != nil {
		value = &shard{}
	}
	b.shards[i] = &record[shard]{seq: m.seq, value: value}
	if bad == nil && m.seq != 0 {
		return nil
	}
	if err := b.loadShards(); err != nil {
		return err
	}
	if bad != nil || lostOne(b.shards[:]) {
		b.countAnew()
	}
	return nil
}

// loadShards reads all shards.
func (b *batch) loadShards() (err error) {
	for i := range b.shards {
		err = cmp.Or(b.loadShard(i), err)
	}
	return err
}

// lostOne reports whether the stream has lost a shard: nothing is granted before
// all of them are there.
func lostOne(all []*record[shard]) bool {
	missing, granted := false, false
	for _, s := range all {
		missing, granted = missing || s.seq == 0, granted || s.value.limit != amount{}
	}
	return missing && granted
}

// countAnew is for a shard that is lost or can't be read: then this process counts
// all that it knows of in its own, and the others are empty.
func (b *batch) countAnew() {
	b.recounted = true
	b.changeShards()
	counted, top := b.cache.counted()
	for _, s := range b.shards {
		top = max(top, s.value.top)
		s.value = &shard{}
	}
	own := b.shards[b.shard].value
	own.counts, own.top = counted, top
}

// errBadShard says that a shard is lost or can't be read.
var errBadShard = errors.New("the store must be counted anew")

// recount is a job that counts anew, if that has to be.
func (b *batch) recount() error {
	if b.care < careful {
		return errCareful
	}
	return b.loadShards()
}

// changeShards has the batch write all shards, which are loaded.
func (b *batch) changeShards() {
	for _, s := range b.shards {
		s.changed = true
	}
}

// changesShards reports whether it writes any, whatever else it does.
func (b *batch) changesShards() bool {
	return slices.ContainsFunc(b.shards[:], func(s *record[shard]) bool { return s != nil && s.changed })
}

// held is what the whole store holds, once all shards are loaded.
func (b *batch) held() counts { return heldBy(b.shards[:], b.change) }

// heldBy is what all shards count together, and a change of it.
func heldBy(all []*record[shard], change counts) counts {
	for _, s := range all {
		change = change.plus(s.value.counts)
	}
	return change.positive()
}

// top is the largest ID that was ever given, as far as it's known. A mailbox
// remembers its own for a day after it was emptied; this is for later, and for
// clocks that go back.
func (b *batch) top() (int64, error) {
	top := b.given
	err := b.loadShards()
	for _, s := range b.shards {
		if s != nil {
			top = max(top, s.value.top)
		}
	}
	return top, err
}

// outgoingShards returns the shards that the batch changes: its own in any case,
// so that of a batch and its repetition only one can succeed.
func (b *batch) outgoingShards() (out []outgoing) {
	own := *b.shards[b.shard].value
	own.counts = own.plus(b.change)
	own.top = max(own.top, b.given)
	if b.recounted { // nobody may put more, nor with a lower limit, before what is left is divided
		own.limit = amount{own.entries, own.bytes}
		own.grant = own.limit
		for _, s := range b.shards {
			s.value.limit = own.limit
		}
	}
	for i, s := range b.shards {
		if i != b.shard && s != nil && s.changed {
			out = append(out, s.outgoing(b.subjects.shard(i), s.value.encode(), false))
		}
	}
	return append(out, b.shards[b.shard].outgoing(b.subjects.shard(b.shard), own.encode(), false))
}

// chooseShard leaves a shard that somebody else writes to for one of those that
// were written to the longest ago. It stays as long as there may be a batch on
// its way, which the next one that writes this shard makes impossible.
func (w *writer) chooseShard() {
	known, _ := w.cache.get(w.subjects.shard(w.shard))
	if w.unsettled || w.chosen && known.seq == w.wrote {
		return
	}
	seqs := make(map[int]uint64)
	order := rand.Perm(shards)
	for i := range shards {
		m, _ := w.cache.get(w.subjects.shard(i))
		seqs[i] = m.seq
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(seqs[a], seqs[b]) })
	w.shard, w.chosen = order[rand.IntN(shards/2)], true
	w.wrote = seqs[w.shard]
}

// whole reads what the whole store holds. The shards aren't read at the same
// moment, so while there are writes it's about that.
func (r *reader) whole(ctx context.Context) (store.Usage, error) {
	subjects := make([]string, shards)
	for i := range subjects {
		subjects[i] = r.subjects.shard(i)
	}
	messages, err := r.engine.lastEach(ctx, subjects, func(ctx context.Context, subject string) (message, error) {
		known, _ := r.cache.get(subject)
		return r.lastSince(ctx, subject, known.seq)
	})
	if err != nil {
		return store.Usage{}, err
	}
	all := make([]*record[shard], shards)
	for i, m := range messages {
		s, err := decodeShard(m.data)
		if err != nil {
			return store.Usage{}, fmt.Errorf("jetstream: %s: %w", subjects[i], errors.Join(err, errBadShard))
		}
		all[i] = &record[shard]{seq: m.seq, value: s}
	}
	if lostOne(all) {
		return store.Usage{}, fmt.Errorf("jetstream: a shard is missing: %w", errBadShard)
	}
	held := heldBy(all, counts{})
	return held.usage(), nil
}
