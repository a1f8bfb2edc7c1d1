package storetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/store"
)

// seedVariable is the environment variable with the one seed to run.
const seedVariable = "RELAY_STORETEST_SEED"

var modelTests = []test{
	{"random steps", func(r *rig) { r.seeds(testModel) }},
	{"random steps at once", func(r *rig) { r.seeds(testModelAtOnce) }},
}

// seeds runs a test with new seeds for a while, each in a place of its own.
func (r *rig) seeds(run func(r *rig, seed uint64)) {
	one := func(seed uint64) {
		r.fresh(fmt.Sprint("seed=", seed), func(r *rig) {
			r.Cleanup(func() {
				if r.Failed() {
					r.Logf("run this again with %s=%d", seedVariable, seed)
				}
			})
			run(r, seed)
		})
	}
	if seed, given := seeds.Given(r, seedVariable); given {
		one(seed)
		return
	}
	const atLeast, atMost = 3, 100
	end := time.Now().Add(time.Duration(fewer(1000)) * time.Millisecond)
	for n := 0; n < atLeast || n < atMost && time.Now().Before(end); n++ {
		one(seeds.New(r, n))
	}
}

// A model is the state that a store should be in, in the simplest form. Each of its steps
// does something to the store and to itself and compares the outcome.
type model struct {
	*rig
	rand    *rand.Rand
	names   []spec.ServerName // of its mailboxes
	boxes   map[spec.ServerName][]store.Entry
	last    map[spec.ServerName]int64 // the largest ID that there was
	made    int                       // mails
	stored  []store.Mail
	refused []store.Mail
	removed map[spec.ServerName]map[int64]bool // IDs of entries that were removed, and not acknowledged
	gone    []int64                            // IDs that were acknowledged, or were there before it was set back
	left    map[spec.ServerName][]mailKey      // mail that was acknowledged or removed, by origin
	trail   []string
	saved   *saved // nil: the place was not copied yet
}

var (
	modelDestinations = []spec.ServerName{
		"a.example", "b.example", "A.example", store.Private("outbox", "a.example"), store.Private("outbox", "b.example"),
	}
	modelOrigins = []spec.ServerName{"x.example", "y.example", "a.example"}
)

// halfNames are the names that Usage has for the halves.
var halfNames = []spec.ServerName{"", store.PrivateHalf}

func testModel(r *rig, seed uint64) {
	m := &model{
		rig:   r,
		rand:  rand.New(rand.NewPCG(seed, 0)),
		boxes: make(map[spec.ServerName][]store.Entry),
		last:  make(map[spec.ServerName]int64),

		removed: make(map[spec.ServerName]map[int64]bool),
		left:    make(map[spec.ServerName][]mailKey),
	}
	for _, name := range modelDestinations {
		if r.place.allows(name) {
			m.names = append(m.names, name)
		}
	}
	r.Cleanup(m.explain)
	// The same number of steps for all, so that a seed always does the same.
	for range 120 {
		m.step()
		m.check()
	}
}

// explain logs the last steps of a test that failed.
func (m *model) explain() {
	if !m.Failed() {
		return
	}
	for i, step := range m.trail {
		if i >= len(m.trail)-20 {
			m.Logf("step %d: %s", i, step)
		}
	}
}

func (m *model) note(format string, args ...any) {
	m.trail = append(m.trail, fmt.Sprintf(format, args...))
}

func (m *model) step() {
	steps := []struct {
		weight int
		do     func()
	}{
		{30, m.putNew}, {15, m.putLimited}, {12, m.putCopy}, {10, m.next}, {12, m.acknowledge}, {3, m.removeSome}, {3, m.look}, {5, m.list}, {4, m.waitForMail}, {2, m.reopenIt},
		{2, m.copyIt}, {2, m.setItBack},
	}
	dice := m.rand.IntN(100)
	for _, step := range steps {
		if dice -= step.weight; dice < 0 {
			step.do()
			return
		}
	}
}

func pick[T any](m *model, from []T) T { return from[m.rand.IntN(len(from))] }

// mail returns mail that isn't stored.
func (m *model) mail() store.Mail {
	if len(m.refused) > 0 && m.rand.IntN(3) == 0 {
		i := m.rand.IntN(len(m.refused))
		mail := m.refused[i]
		m.refused = slices.Delete(m.refused, i, i+1)
		return mail
	}
	m.made++
	mail := letter(pick(m, m.names), m.made)
	mail.Origin = pick(m, modelOrigins)
	if m.rand.IntN(3) == 0 {
		mail.TransactionID = "often"
	}
	mail.Body = pattern(m.rand.IntN(60))
	mail.Proof = pattern(m.rand.IntN(20))
	if m.rand.IntN(3) == 0 {
		mail = expiring(mail, time.Hour)
	}
	return mail
}

func (m *model) putNew() {
	mail := m.mail()
	m.note("put %q from %s for %s", mail.TransactionID, mail.Origin, mail.Destination)
	m.keep(mail)
	m.accept(mail)
}

// accept finds out which ID the store gave to mail.
func (m *model) accept(mail store.Mail) {
	to := mail.Destination
	entries, err := m.Next(m.Context(), to, m.last[to], 10, plenty)
	require.NoError(m, err, "looking for mail that was just put")
	require.NoError(m, compare([]store.Mail{mail}, entries))
	require.Greater(m, entries[0].ID, m.last[to])
	m.last[to] = entries[0].ID
	m.boxes[to] = append(m.boxes[to], entries[0])
	m.stored = append(m.stored, mail)
}

func (m *model) putLimited() {
	mail := m.mail()
	limits, room := m.limits(&mail)
	m.note("put %q from %s for %s, %d bytes, within %+v: %v", mail.TransactionID, mail.Origin, mail.Destination, mail.Size(), limits, room)
	if room {
		m.fits(mail, limits)
		m.accept(mail)
	} else {
		m.full(mail, limits)
		m.refused = append(m.refused, mail)
	}
}

// limits returns some that are close to the need of the mail, and whether there is
// room for it.
func (m *model) limits(mail *store.Mail) (limits store.Limits, room bool) {
	box, origin, all := m.use(mail.Destination, ""), m.use(mail.Destination, mail.Origin), m.useOfHalf(mail.Destination)
	room = true
	for _, l := range []struct {
		limit *int64
		need  int64
	}{
		{&limits.Entries, box.Entries + 1},
		{&limits.Bytes, box.Bytes + mail.Size()},
		{&limits.OriginEntries, origin.Entries + 1},
		{&limits.OriginBytes, origin.Bytes + mail.Size()},
		{&limits.StoreEntries, all.Entries + 1},
		{&limits.StoreBytes, all.Bytes + mail.Size()},
	} {
		if m.rand.IntN(2) == 0 {
			*l.limit = max(1, l.need+m.rand.Int64N(6)-1)
			room = room && l.need <= *l.limit
		}
	}
	return limits, room
}

// use is the right answer of Usage for a destination, or the share of one origin
// there, if that isn't empty.
func (m *model) use(destination, origin spec.ServerName) store.Usage {
	var usage store.Usage
	for _, entry := range m.boxes[destination] {
		if origin == "" || origin == entry.Origin {
			usage.Entries++
			usage.Bytes += entry.Size()
		}
	}
	return usage
}

// useOfHalf is the right answer of Usage for the half that a name is in.
func (m *model) useOfHalf(name spec.ServerName) store.Usage {
	var usage store.Usage
	for _, one := range m.names {
		if store.IsPrivate(one) == store.IsPrivate(name) {
			box := m.use(one, "")
			usage.Entries += box.Entries
			usage.Bytes += box.Bytes
		}
	}
	return usage
}

func (m *model) putCopy() {
	if len(m.stored) == 0 {
		return
	}
	mail := pick(m, m.stored)
	mail.Body = append([]byte("not "), mail.Body...)
	limits := store.Limits{Entries: m.rand.Int64N(2), StoreBytes: m.rand.Int64N(2)}
	m.note("put a copy of %q from %s for %s", mail.TransactionID, mail.Origin, mail.Destination)
	if !m.isRemembered(&mail) {
		m.putForgotten(mail)
		return
	}
	stored, err := m.Put(m.Context(), mail, limits)
	require.NoError(m, err)
	require.False(m, stored, "a copy was stored")
}

// id returns an ID that might mean something to the store.
func (m *model) id(destination spec.ServerName) int64 {
	own, other := m.boxes[destination], m.boxes[pick(m, m.names)]
	switch n := m.rand.IntN(10); {
	case n < 4 && len(own) > 0:
		return pick(m, own).ID
	case n < 6 && len(other) > 0:
		return pick(m, other).ID
	case n < 7 && len(m.gone) > 0:
		return pick(m, m.gone)
	case n < 8:
		return m.last[destination] + m.rand.Int64N(3)
	default:
		return pick(m, []int64{0, 0, 1, store.MaxID, math.MaxInt64})
	}
}

func (m *model) next() {
	to := pick(m, m.names)
	after, maxEntries, maxBytes := m.id(to), 1+m.rand.IntN(6), m.rand.Int64N(100+m.use(to, "").Bytes)
	m.note("next of %s after %d, %d entries, %d bytes", to, after, maxEntries, maxBytes)
	var want []store.Entry
	sum := int64(0)
	for _, entry := range m.boxes[to] {
		if entry.ID <= after {
			continue
		}
		sum += entry.Size()
		if len(want) == maxEntries || len(want) > 0 && sum > maxBytes {
			break
		}
		want = append(want, entry)
	}
	got, err := m.Next(m.Context(), to, after, maxEntries, maxBytes)
	if len(want) == 0 {
		require.ErrorIs(m, err, store.ErrEmpty)
		return
	}
	require.NoError(m, err)
	require.Equal(m, ids(want), ids(got))
}

func (m *model) acknowledge() {
	to := pick(m, m.names)
	id := m.id(to)
	box := m.boxes[to]
	want := 1 + slices.IndexFunc(box, func(entry store.Entry) bool { return entry.ID == id })
	m.note("ack %d of %s removes %d", id, to, want)
	got := m.ack(to, id)
	if want == 0 && got > 0 && m.removed[to][id] { // see store.Managed
		want = len(box) - len(slices.DeleteFunc(slices.Clone(box), func(entry store.Entry) bool { return entry.ID < id }))
	}
	require.Equal(m, want, got)
	m.gone = append(m.gone, ids(box[:want])...)
	m.leave(box[:want])
	m.boxes[to] = box[want:]
}

func (m *model) list() {
	start := pick(m, halfNames)
	m.note("list from %q", start)
	listed := slices.DeleteFunc(m.destinationsFrom(start, 1+m.rand.IntN(4)), func(name spec.ServerName) bool {
		return len(m.boxes[name]) == 0
	})
	want := slices.DeleteFunc(slices.Sorted(slices.Values(m.names)), func(name spec.ServerName) bool {
		return len(m.boxes[name]) == 0 || store.IsPrivate(name) != store.IsPrivate(start)
	})
	require.ElementsMatch(m, want, listed)
	require.True(m, slices.IsSorted(listed))
}

func (m *model) waitForMail() {
	to := pick(m, m.names)
	if box := m.boxes[to]; len(box) > 0 {
		after := box[len(box)-1].ID - 1
		m.note("wait for %s after %d", to, after)
		m.wait(to, after)
	}
}

func (m *model) reopenIt() {
	if !m.place.Volatile {
		m.note("reopen")
		m.reopen()
	}
}

// check compares everything.
func (m *model) check() {
	for _, to := range m.names {
		entries := m.all(to)
		require.Equal(m, ids(m.boxes[to]), ids(entries), "mailbox of %s", to)
		for i := range entries {
			require.NoError(m, differ(&m.boxes[to][i].Mail, &entries[i].Mail))
		}
		require.Equal(m, m.use(to, ""), m.usage(to), "usage of %s", to)
	}
	for _, half := range halfNames {
		if m.place.allows(half) {
			require.Equal(m, m.useOfHalf(half), m.usage(half), "usage of the half %q", half)
		}
	}
}
