package sqlite

import (
	"bytes"
	"database/sql"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
)

// clockSeed makes TestWrongClocks make the same choices again.
const clockSeed = "RELAY_CLOCK_SEED"

const day = 24 * time.Hour

// openAt opens a store on a machine whose clock says at, and has it swept, which
// keeps its own clock on the disk, every six hours.
func openAt(t *testing.T, path string, at time.Time) *Store {
	t.Helper()
	s, err := Open(path, Options{
		SweepInterval: 6 * time.Hour, Logger: slog.New(slog.DiscardHandler),
		machineTime: func() time.Time { return at }, watchInterval: 6 * time.Hour,
	})
	require.NoError(t, err)
	return s
}

func mailbox1(t *testing.T, s *Store) []store.Entry {
	t.Helper()
	entries, err := s.Next(t.Context(), "b", 0, 1000, math.MaxInt64)
	if errors.Is(err, store.ErrEmpty) {
		return nil
	}
	require.NoError(t, err)
	return entries
}

// Time counts while the store is open, to the millisecond, and not while it is
// closed.
func TestLifetimeWhileOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "relay.db")
		s := openAt(t, path, time.Now())
		m := mail(1)
		m.Lifetime = 30 * day
		put(t, s, m)
		time.Sleep(10 * day)
		require.Equal(t, 20*day, mailbox1(t, s)[0].Lifetime)
		require.NoError(t, s.Close())
		time.Sleep(100 * day)

		s = openAt(t, path, time.Now())
		left := mailbox1(t, s)[0].Lifetime
		require.GreaterOrEqual(t, left, 20*day)
		require.LessOrEqual(t, left, 20*day+6*time.Hour, "since the last commit")
		time.Sleep(left - time.Millisecond)
		require.Len(t, mailbox1(t, s), 1)
		time.Sleep(time.Millisecond)
		require.Empty(t, mailbox1(t, s))
		require.NoError(t, s.Close())
	})
}

// wrongTimes are times that the clock of a machine may show: right, some time off, or
// not set at all.
var wrongTimes = []func(right time.Time) time.Time{
	func(right time.Time) time.Time { return right },
	func(right time.Time) time.Time { return right.Add(40 * day) },
	func(right time.Time) time.Time { return right.Add(-40 * day) },
	func(time.Time) time.Time { return time.Unix(0, 0) },
	func(time.Time) time.Time { return time.Date(2099, 12, 31, 0, 0, 0, 0, time.UTC) },
	func(time.Time) time.Time { return time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC) },
}

// With any time on the machine's clock at each start, mail is there for as long as
// its lifetime is, counted while the store is open, and no longer by much; IDs only
// grow.
func TestWrongClocks(t *testing.T) {
	seed, runs := seeds.Of(t, clockSeed), uint64(5)
	if testing.Short() {
		runs = 2
	}
	for run := range runs {
		synctest.Test(t, func(t *testing.T) {
			w := &wrongClocks{T: t, dice: rand.New(rand.NewPCG(seed, run)), path: filepath.Join(t.TempDir(), "relay.db")}
			for range 12 {
				w.session()
			}
		})
	}
}

type wrongClocks struct {
	*testing.T
	dice   *rand.Rand
	path   string
	kept   []aged
	made   int
	lastID int64
	open   time.Duration // for how long the store was open together
	lost   time.Duration // of that may be unknown to the store
}

type aged struct {
	store.Mail
	since time.Duration // of open
}

func (w *wrongClocks) session() {
	right := time.Now().AddDate(30, 0, 0) // a bubble begins in 2000
	s := openAt(w.T, w.path, wrongTimes[w.dice.IntN(len(wrongTimes))](right))
	defer func() { require.NoError(w, s.Close()) }()
	w.check(s)
	for range w.dice.IntN(6) {
		m := mail(w.made)
		if w.dice.IntN(4) > 0 {
			m.Lifetime = time.Duration(1+w.dice.IntN(96)) * time.Hour
		}
		put(w, s, m)
		entries := mailbox1(w.T, s)
		require.Greater(w, entries[len(entries)-1].ID, w.lastID)
		w.lastID = entries[len(entries)-1].ID
		w.made++
		w.kept = append(w.kept, aged{m, w.open})
		pause := time.Duration(w.dice.IntN(10)) * time.Hour
		time.Sleep(pause)
		w.open += pause
		w.check(s)
	}
	if len(w.kept) > 0 && w.dice.IntN(3) == 0 {
		entries := mailbox1(w.T, s)
		if len(entries) > 0 {
			_, err := s.Ack(w.Context(), "b", entries[0].ID)
			require.NoError(w, err)
			w.forget(entries[0])
		}
	}
	w.lost += 6 * time.Hour
	time.Sleep(time.Duration(w.dice.IntN(1000)) * time.Nanosecond)
}

// check compares the mail in the store with the mail that must be and may be there.
func (w *wrongClocks) check(s *Store) {
	there := make(map[store.Digest]store.Entry)
	for _, e := range mailbox1(w.T, s) {
		there[e.Digest] = e
	}
	for _, m := range w.kept {
		age := w.open - m.since
		e, ok := there[m.Digest]
		switch {
		case m.Lifetime == 0 || age < m.Lifetime:
			require.True(w, ok, "mail of age %v with a lifetime of %v is gone", age, m.Lifetime)
		case age > m.Lifetime+w.lost:
			require.False(w, ok, "mail of age %v with a lifetime of %v is there", age, m.Lifetime)
		}
		if ok && m.Lifetime > 0 {
			require.GreaterOrEqual(w, e.Lifetime, m.Lifetime-age-time.Millisecond)
			require.LessOrEqual(w, e.Lifetime, m.Lifetime)
		}
		delete(there, m.Digest)
	}
	require.Empty(w, there)
}

// forget takes the mail of an entry out of the mail that must be there.
func (w *wrongClocks) forget(e store.Entry) {
	for i, m := range w.kept {
		if m.Digest == e.Digest {
			w.kept = append(w.kept[:i:i], w.kept[i+1:]...)
			return
		}
	}
}

// The clock says where IDs go on, unless it isn't set.
func TestIDsAtOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.db")
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	last := int64(0)
	for i, c := range []struct {
		at     time.Time
		jumped bool
	}{{at, true}, {time.Unix(5, 0), false}, {at.Add(time.Second), true}, {at.Add(-40 * day), false}, {at.AddDate(9000, 0, 0), false}, {at.Add(time.Minute), true}} {
		s := openAt(t, path, c.at)
		put(t, s, mail(i))
		entries := mailbox1(t, s)
		id := entries[len(entries)-1].ID
		if c.jumped {
			require.Equal(t, store.FirstID(c.at)+1, id)
		} else {
			require.Equal(t, last+1, id)
		}
		last = id
		require.NoError(t, s.Close())
	}
}

// A file from before there was a clock in it goes on with the lifetimes that its
// mail has by the machine's clock; a wrong one removes nothing at once.
func TestClockOfOldFile(t *testing.T) {
	made := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		at   time.Time
		left []time.Duration
	}{
		"right":     {made.Add(day), []time.Duration{9 * day, 19 * day, 0, 29 * day}},
		"late":      {made.Add(15 * day), []time.Duration{time.Millisecond, 10*day + time.Millisecond, 0, 20*day + time.Millisecond}},
		"far ahead": {made.Add(400 * day), []time.Duration{time.Millisecond, 10*day + time.Millisecond, 0, 20*day + time.Millisecond}},
		"behind":    {made.Add(-40 * day), []time.Duration{10 * day, 20 * day, 0, 30 * day}},
		"not set":   {time.Unix(0, 0), []time.Duration{10 * day, 20 * day, 0, 30 * day}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "relay.db")
				s := openAt(t, path, made)
				for i, lifetime := range []time.Duration{10 * day, 20 * day, 0, 30 * day} {
					m := mail(i)
					m.Lifetime = lifetime
					put(t, s, m)
				}
				require.NoError(t, s.Close())
				makeOld(t, path)
				s = openAt(t, path, c.at)
				defer func() { require.NoError(t, s.Close()) }()
				entries := mailbox1(t, s)
				require.Len(t, entries, 4)
				for i, e := range entries {
					require.Equal(t, c.left[i], e.Lifetime)
				}
				usage, err := s.Usage(t.Context(), "")
				require.NoError(t, err)
				require.EqualValues(t, 4, usage.Entries)
				usage, err = s.Usage(t.Context(), store.PrivateHalf)
				require.NoError(t, err)
				require.Zero(t, usage)
			})
		})
	}
}

// A repair that finds the clock damaged lets no mail expire early, with any time on the
// machine's clock, and keeps none for much longer if the copy can be read.
func TestClockIsDamaged(t *testing.T) {
	times := wrongTimes
	if testing.Short() {
		times = times[1:3] // ahead and behind
	}
	for name, isCopyLost := range map[string]bool{"total": false, "total and its copy": true} {
		for _, wrong := range times {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testClockIsDamaged(t, isCopyLost, wrong) })
			})
		}
	}
}

func testClockIsDamaged(t *testing.T, isCopyLost bool, wrong func(time.Time) time.Time) {
	path := filepath.Join(t.TempDir(), "relay.db")
	right := time.Now().AddDate(30, 0, 0) // a bubble begins in 2000
	s := openAt(t, path, right)
	for i, lifetime := range []time.Duration{10 * day, 30 * day, 0, 20 * day} {
		m := mail(i)
		m.Lifetime = lifetime
		put(t, s, m)
		time.Sleep(day)
	}
	before := mailbox1(t, s)
	require.NoError(t, s.Close())
	editPages(t, path, func(_ int, p *page) bool {
		cells, _ := p.cells(0)
		if p[0] != tableLeaf || len(cells) != 1 || len(decode(cells[0].local)) != 8 {
			return false
		}
		p[pageSize-8] ^= 1
		return true
	})
	if isCopyLost {
		editPages(t, path, func(_ int, p *page) bool {
			at := bytes.Index(p[:], []byte(clockName))
			if p[0] != tableLeaf || at < 0 {
				return false
			}
			p[at] ^= 1
			return true
		})
	}
	s = openAt(t, path, wrong(right))
	defer func() { require.NoError(t, s.Close()) }()
	after := mailbox1(t, s)
	require.Len(t, after, len(before))
	for i := range before {
		require.GreaterOrEqual(t, after[i].Lifetime, before[i].Lifetime)
		if !isCopyLost {
			require.Equal(t, before[i].Lifetime, after[i].Lifetime)
		}
	}
}

// makeOld makes a file as version 2 would have made it.
func makeOld(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", dsn(path))
	require.NoError(t, err)
	sums := make(map[int64]int64)
	rows, err := db.Query("SELECT id, until, body, proof FROM entry")
	require.NoError(t, err)
	for rows.Next() {
		var id, until int64
		var body, proof []byte
		require.NoError(t, rows.Scan(&id, &until, &body, &proof))
		sums[id] = seal.Checksum(until, body, proof)
	}
	require.NoError(t, errors.Join(rows.Err(), rows.Close()))
	for id, sum := range sums {
		_, err = db.Exec("UPDATE entry SET checksum = ? WHERE id = ?", sum, id)
		require.NoError(t, err)
	}
	for _, query := range []string{
		"ALTER TABLE total DROP COLUMN private_entries", "ALTER TABLE total DROP COLUMN private_bytes",
		"ALTER TABLE total DROP COLUMN private_set_aside", "ALTER TABLE total DROP COLUMN clock",
		"ALTER TABLE total DROP COLUMN checksum", "ALTER TABLE entry DROP COLUMN prev", "ALTER TABLE mailbox DROP COLUMN last",
		"DELETE FROM sqlite_sequence WHERE name = '" + clockName + "'", "PRAGMA user_version = 2",
	} {
		_, err = db.Exec(query)
		require.NoError(t, err, query)
	}
	require.NoError(t, db.Close())
}
