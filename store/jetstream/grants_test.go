package jetstream

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/wake"
)

// A shardWorld is a stream that has nothing but shards, and processes that know
// what they have read of them, or what was once there.
type shardWorld struct {
	*testing.T
	random *rand.Rand
	stream map[string]message
	seq    uint64
	held   counts // as it should be
	caches []*cache
	harms  bool // shards get lost or damaged now and then
	harmed bool // and one is, until it was counted anew
}

// Whatever the processes know, whichever limits they have and whichever shards the
// stream loses, a Put that is committed keeps to its limit, and one that is refused
// with care found no room.
func TestShardsKeepToTheLimit(t *testing.T) {
	t.Parallel()
	committed, refused := 0, 0
	for range 300 {
		seed := rand.Uint64()
		w := &shardWorld{T: t, random: rand.New(rand.NewPCG(seed, 1)), stream: make(map[string]message)}
		for range 1 + w.random.IntN(4) {
			w.caches = append(w.caches, newCache("R", &wake.Hub{}))
		}
		w.harms = w.random.IntN(2) == 0
		limits := []int64{[]int64{3, 20, 300}[w.random.IntN(3)]}
		if w.random.IntN(2) == 0 {
			limits = append(limits, 0, 10, 200)
		}
		for step := range 300 {
			c, r := w.step(limits)
			committed, refused = committed+c, refused+r
			require.False(t, t.Failed(), "seed %d, step %d", seed, step)
		}
	}
	require.Positive(t, committed)
	require.Positive(t, refused)
}

// step has a process build a batch on what it knows, and commits it if the
// stream is as it thought.
func (w *shardWorld) step(limits []int64) (committed, refused int) {
	process := w.random.IntN(len(w.caches))
	c := w.caches[process]
	if w.harms && w.random.IntN(20) == 0 {
		w.harm()
	}
	c.boxes["b.example"] = summary{counts: w.held}
	for i := range shards {
		if subject := c.subjects.shard(i); w.random.IntN(4) == 0 {
			c.learn(subject, w.stream[subject])
		}
	}
	b := &batch{subjects: c.subjects, cache: c, missing: make(map[string]struct{}), shard: process % shards}
	if w.random.IntN(3) == 0 {
		b.care, b.read = careful, w.readAll()
	}
	b.read = w.orRead(b)
	var puts []func(before counts)
	for range w.random.IntN(5) {
		limit, size := limits[w.random.IntN(len(limits))], 1+w.random.Int64N(9)
		admitted, err := b.admits(store.Limits{StoreEntries: limit, StoreBytes: 5 * limit}, size)
		require.NoError(w, err)
		if !admitted {
			if b.care == careful {
				refused++
				require.True(w, w.held.entries+b.change.entries+1 > limit || w.held.bytes+b.change.bytes+size > 5*limit)
			}
			continue
		}
		b.change = b.change.plus(counts{entries: 1, bytes: size})
		change := b.change
		puts = append(puts, func(before counts) {
			with := before.plus(change)
			require.True(w, limit == 0 || with.entries <= limit && with.bytes <= 5*limit, "%v with a limit of %d", with, limit)
		})
	}
	if w.random.IntN(3) == 0 && w.held.entries > 0 {
		n := 1 + w.random.Int64N(w.held.entries)
		b.change = b.change.minus(counts{entries: n, bytes: w.held.bytes * n / w.held.entries})
	}
	before := w.held
	if b.change == (counts{}) && !b.changesShards() || !w.commit(b) {
		return 0, refused
	}
	for _, check := range puts {
		check(before)
	}
	w.check()
	return 1, refused
}

// harm has the stream lose a shard, unless it is the last, or have something else
// there.
func (w *shardWorld) harm() {
	subject := subjects("R").shard(w.random.IntN(shards))
	if w.stream[subject].seq == 0 || len(w.stream) == 1 {
		return
	}
	w.harmed = true
	w.seq++
	w.stream[subject] = message{w.seq, []byte("no shard")}
	if w.random.IntN(2) == 0 {
		delete(w.stream, subject)
	}
}

func (w *shardWorld) readAll() map[string]message {
	read := make(map[string]message)
	for i := range shards {
		read[subjects("R").shard(i)] = w.stream[subjects("R").shard(i)]
	}
	return read
}

// orRead lets a batch have what its cache lacks.
func (w *shardWorld) orRead(b *batch) map[string]message {
	if b.read != nil {
		return b.read
	}
	read := make(map[string]message)
	for subject, m := range w.readAll() {
		if _, ok := b.cache.get(subject); !ok {
			read[subject] = m
		}
	}
	return read
}

func (w *shardWorld) commit(b *batch) bool {
	require.NoError(w, b.loadShard(b.shard))
	messages := b.outgoingShards()
	for _, o := range messages {
		require.True(w, o.checked)
		if w.stream[o.subject].seq != o.seq {
			return false
		}
	}
	for _, o := range messages {
		w.seq++
		w.stream[o.subject] = message{w.seq, o.data}
		if w.random.IntN(3) > 0 {
			b.cache.learn(o.subject, w.stream[o.subject])
		}
	}
	w.held = w.held.plus(b.change)
	return true
}

// check compares what is counted with what there should be.
func (w *shardWorld) check() {
	held, whole := counts{}, true
	for _, m := range w.readAll() {
		s, err := decodeShard(m.data)
		whole = whole && m.seq != 0 && err == nil
		if err == nil {
			held = held.plus(s.counts)
			require.True(w, amount{s.entries, s.bytes}.within(s.grant))
		}
	}
	if w.harmed = w.harmed && !whole; !w.harmed {
		require.Equal(w, w.held, held)
	}
}

// Who has used up a grant needs one other shard, not all.
func TestBorrow(t *testing.T) {
	t.Parallel()
	c := newCache("R", &wake.Hub{})
	limit := amount{80, 800}
	read := make(map[string]message)
	for i := range shards {
		s := shard{limit: limit, grant: amount{10, 100}}
		if i < 2 {
			s.counts = counts{entries: 10, bytes: 100}
		}
		read[c.subjects.shard(i)] = message{uint64(100 - i), s.encode()}
	}
	b := &batch{subjects: c.subjects, cache: c, care: careful, read: read, missing: make(map[string]struct{})}
	admitted, err := b.admits(store.Limits{StoreEntries: 80, StoreBytes: 800}, 9)
	require.NoError(t, err)
	require.True(t, admitted)
	b.change = counts{entries: 1, bytes: 9}
	require.Equal(t, 2, b.size())
	out := b.outgoingShards()
	require.Len(t, out, 2)
	require.Equal(t, c.subjects.shard(7), out[0].subject, "the one that was written to the longest ago")
	from, err := decodeShard(out[0].data)
	require.NoError(t, err)
	own, err := decodeShard(out[1].data)
	require.NoError(t, err)
	require.Equal(t, []amount{{5, 50}, {15, 150}}, []amount{from.grant, own.grant})
}

// When the store was counted anew, grants still keep to the limit and nobody puts
// more than a grant, also if the shards weren't what the mailboxes have.
func TestCountedAnewKeepsToTheLimit(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]message{"damaged": {seq: 1, data: []byte("no shard")}, "missing": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCache("R", &wake.Hub{})
			mailbox := box{counts: counts{entries: 10, bytes: 10}, start: 1, base: 1, tail: make([]meta, 10)}
			c.learn(c.subjects.box("b.example"), message{1, mailbox.encode()})
			read := make(map[string]message)
			all := amount{200, 1000}
			for i := range shards {
				read[c.subjects.shard(i)] = message{1, (&shard{limit: all, top: int64(1000 + i)}).encode()}
			}
			read[c.subjects.shard(0)] = message{1, (&shard{counts: counts{entries: 100, bytes: 100}, limit: all, grant: amount{100, 100}}).encode()}
			read[c.subjects.shard(1)] = message{1, (&shard{counts: counts{entries: -90, bytes: -90}, limit: all}).encode()}
			read[c.subjects.shard(5)] = bad
			b := &batch{subjects: c.subjects, cache: c, care: careful, read: read, missing: make(map[string]struct{})}

			admitted, err := b.admits(store.Limits{StoreEntries: 200, StoreBytes: 1000}, 1)
			require.NoError(t, err)
			require.True(t, admitted)
			b.change = counts{entries: 1, bytes: 1}
			held, granted := counts{}, amount{}
			for i, o := range b.outgoingShards() {
				s, err := decodeShard(o.data)
				require.NoError(t, err)
				require.True(t, amount{s.entries, s.bytes}.within(s.grant), i)
				held, granted = held.plus(s.counts), amount{granted.entries + s.grant.entries, granted.bytes + s.grant.bytes}
			}
			require.Equal(t, counts{entries: 11, bytes: 11}, held)
			require.Equal(t, all, granted)
			top, err := b.top()
			require.NoError(t, err)
			require.EqualValues(t, 1007, top)
		})
	}
}

// Where mail was only counted anew, what others have taken away isn't a grant for
// those who have a lower limit.
func TestRecountIsNoGrant(t *testing.T) {
	t.Parallel()
	c := newCache("R", &wake.Hub{})
	mailbox := box{counts: counts{entries: 10, bytes: 10}, start: 1, base: 1, tail: make([]meta, 10)}
	c.learn(c.subjects.box("b.example"), message{1, mailbox.encode()})
	read := map[string]message{c.subjects.shard(5): {seq: 1, data: []byte("no shard")}}
	for i := range shards {
		if i != 5 {
			read[c.subjects.shard(i)] = message{1, (&shard{}).encode()}
		}
	}
	b := &batch{subjects: c.subjects, cache: c, care: careful, read: read, missing: make(map[string]struct{})}
	require.NoError(t, b.recount())
	for _, o := range b.outgoingShards() {
		read[o.subject] = message{2, o.data}
	}
	other := &batch{subjects: c.subjects, cache: c, care: careful, read: read, missing: make(map[string]struct{}), shard: 1}
	other.change = counts{entries: -2, bytes: -2} // what it has acknowledged
	admitted, err := other.admits(store.Limits{StoreEntries: 5}, 1)
	require.NoError(t, err)
	require.False(t, admitted)
}
