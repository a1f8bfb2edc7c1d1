package jetstream

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/store"
)

// nextIDOf is the ID that a mailbox would give next, with these clocks.
func nextIDOf(s *Store, x box, wall time.Time, first int64) (int64, error) {
	b := newBatch(s.writer, trusting, nil, 1, wall)
	b.first = first
	mail := testMail("next")
	r := &record[box]{value: &x}
	if err := b.nextID(&putJob{mail: mail}, r); err != nil {
		return 0, err
	}
	return r.value.nextID(), nil
}

// A mailbox that is new begins after all IDs that there were, and no clock brings
// back an ID.
func TestIDsAndTheClock(t *testing.T) {
	t.Parallel()
	s := openTest(t, nil)
	put(t, s, testMail("first"))
	_, top := s.cache.whole("")
	require.GreaterOrEqual(t, top, store.FirstID(time.Now().Add(-patience)))
	other := func(wall time.Time) int64 {
		id, err := nextIDOf(s, box{}, wall, 0)
		require.NoError(t, err)
		return id
	}
	require.Equal(t, top+1, other(time.Unix(1, 0)))
	require.Equal(t, top+1, other(time.Date(2600, 1, 1, 0, 0, 0, 0, time.UTC)), "nobody believes such a clock")
	later := time.Now().Add(time.Hour)
	require.Equal(t, store.FirstID(later), other(later))

	s.cache.top = store.MaxID
	_, err := nextIDOf(s, box{}, time.Now(), 0)
	require.ErrorContains(t, err, "no IDs are left")
}

// IDs and places are each other's, however often the IDs jumped, and only as many
// jumps are kept as entries need. RELAY_JUMPS_SEED repeats it.
func TestJumps(t *testing.T) {
	t.Parallel()
	seed, runs := seeds.Of(t, "RELAY_JUMPS_SEED"), uint64(200)
	if testing.Short() {
		runs = 50
	}
	for run := range runs {
		random := rand.New(rand.NewPCG(seed, run))
		b, ids := &box{start: 5, base: 5, mark: 4}, map[int64]int64{}
		for step := range 1 + random.IntN(2*maxJumps) {
			if random.IntN(3) == 0 {
				b.jumpTo(b.nextID() + 1 + random.Int64N(1000))
			}
			ids[b.next()] = b.nextID()
			b.entries++
			if b.tail = append(b.tail, meta{}); len(b.tail) == pageSize {
				b.base, b.tail = b.next(), nil
			}
			if random.IntN(20) == 0 {
				b.mark += random.Int64N(b.next() - b.mark)
				b.entries = b.next() - 1 - b.mark
				b.forgetJumps()
			}
			again := box{}
			require.NoError(t, decode(encode(b), &again), "run %d, step %d", run, step)
			require.Equal(t, b.jumps, again.jumps)
		}
		last := int64(0)
		for place := b.mark + 1; place < b.next(); place++ {
			id := b.idAt(place)
			require.Equal(t, ids[place], id, "seed %d", seed)
			require.Greater(t, id, last)
			for gap := max(last+1, id-3); gap < id && last > 0; gap++ {
				require.Equal(t, place-1, b.placeOf(gap), "seed %d", seed)
			}
			require.Equal(t, place, b.placeOf(id), "seed %d", seed)
			last = id
		}
		require.Equal(t, b.next()-1, b.placeOf(math.MaxInt64), "seed %d", seed)
		require.LessOrEqual(t, len(b.jumps), maxJumps)
	}
}

// A mailbox with mail from more openings than it remembers takes more.
func TestTooManyJumps(t *testing.T) {
	t.Parallel()
	b := &box{start: 1, base: 1}
	for i := range 2 * maxJumps {
		b.jumpTo(b.nextID() + 10)
		b.entries++
		if b.tail = append(b.tail, meta{}); len(b.tail) == pageSize {
			b.base, b.tail = b.next(), nil
		}
		require.True(t, b.fitsTogether(), i)
	}
	require.Len(t, b.jumps, maxJumps)
	require.Equal(t, b.next()-1, b.placeOf(b.nextID()-1))
}

// Every opening begins after FirstID, in mailboxes with mail, too, and mail from
// all of them is read and acknowledged by its own ID.
func TestIDsOfOpenings(t *testing.T) {
	t.Parallel()
	srv := startServer(t, nil)
	var ids []int64
	for i := range 4 {
		before := store.FirstID(time.Now())
		s := open(t, testOptions(srv))
		for j := range pageSize {
			put(t, s, testMail(fmt.Sprint(i, "/", j)))
		}
		entries := next(t, s, "b.example")
		require.GreaterOrEqual(t, entries[len(entries)-pageSize].ID, before)
		for j, id := range ids {
			require.Equal(t, id, entries[j].ID)
		}
		ids = ids[:0]
		for _, e := range entries {
			ids = append(ids, e.ID)
		}
		time.Sleep(2 * time.Millisecond)
		require.NoError(t, s.Close())
	}
	s := open(t, testOptions(srv))
	defer func() { require.NoError(t, s.Close()) }()
	for at := pageSize / 2; at < len(ids); at += pageSize {
		removed, err := s.Ack(t.Context(), "b.example", ids[at]+pageSize) // nobody's
		require.NoError(t, err)
		require.Zero(t, removed)
		_, err = s.Ack(t.Context(), "b.example", ids[at])
		require.NoError(t, err)
		left := next(t, s, "b.example")
		require.Len(t, left, len(ids)-at-1)
		require.Equal(t, ids[at+1], left[0].ID)
	}
}
