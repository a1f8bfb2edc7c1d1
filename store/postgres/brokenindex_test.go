//go:build unix

package postgres

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/pgtest"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/store"
)

// The size of a server's pages.
const pageSize = 8192

// A broken is a database of a server of its own whose files get damaged.
type broken struct {
	*testing.T
	server  *pgtest.Server
	options Options
	random  *rand.Rand
	there   map[spec.ServerName]map[int]bool // mail that was put and not acknowledged
	next    int
}

// TestBrokenIndex damages a page of one index after the other, which the server
// notices when it reads it. No Put answers nil for mail that can't be handed out, mail is
// handed out and acknowledged that can be found without the index, and REINDEX
// brings everything back. RELAY_CRASH_ROUNDS is how many (default
// 4), RELAY_CRASH_SEED makes the same choices again.
func TestBrokenIndex(t *testing.T) {
	indexes := []string{
		"entry_order", "entry_pkey", "entry_until", "mailbox_pkey", "mailbox_destination_key", "share_pkey", "gone_pkey", "gone_until", "total_pkey",
	}
	random := rand.New(rand.NewPCG(seeds.Of(t, crashSeed), 5000))
	b := newBroken(t, random)
	random.Shuffle(len(indexes), func(i, j int) { indexes[i], indexes[j] = indexes[j], indexes[i] })
	for i := range seeds.Count(t, crashRounds, 4) {
		index := indexes[i%len(indexes)]
		b.fill()
		b.damage(index, brokenPage)
		b.use(index)
		b.mend()
	}
}

func newBroken(t *testing.T, random *rand.Rand) *broken {
	b := &broken{T: t, server: pgtest.New(t), random: random, there: make(map[spec.ServerName]map[int]bool)}
	b.options = Options{ConnString: b.server.Database(t), SweepInterval: time.Hour}
	return b
}

func (b *broken) mail() (int, store.Mail) {
	b.next++
	m := mail(b.next)
	m.Destination, m.Origin = b.name(), spec.ServerName(fmt.Sprint("o", b.random.IntN(40)))
	if b.random.IntN(10) == 0 {
		m.Lifetime = time.Hour
	}
	return b.next, m
}

func (b *broken) name() spec.ServerName { return spec.ServerName(fmt.Sprint("d", b.random.IntN(4))) }

// fill has the indexes grow to some pages.
func (b *broken) fill() {
	s := open(b.T, b.options)
	defer func() { require.NoError(b, s.Close()) }()
	for range 5 {
		var mails [4][]store.Mail
		for range 200 {
			n, m := b.mail()
			i := slices.Index([]spec.ServerName{"d0", "d1", "d2", "d3"}, m.Destination)
			mails[i] = append(mails[i], m)
			b.put(m.Destination, n)
		}
		for _, some := range mails {
			if len(some) > 0 {
				require.NoError(b, s.PutAll(b.Context(), some))
			}
		}
	}
	b.ack(s, b.name(), 40)
}

func (b *broken) put(name spec.ServerName, n int) {
	if b.there[name] == nil {
		b.there[name] = make(map[int]bool)
	}
	b.there[name][n] = true
}

// ack acknowledges the first entries, and reports whether that was possible.
func (b *broken) ack(s *Store, name spec.ServerName, n int) bool {
	entries, err := s.Next(b.Context(), name, 0, n, math.MaxInt64)
	if err != nil {
		return false
	}
	removed, err := s.Ack(b.Context(), name, entries[len(entries)-1].ID)
	if err != nil {
		return false
	}
	require.Equal(b, len(entries), removed)
	for _, e := range entries {
		delete(b.there[name], numberOf(b.T, e))
	}
	return true
}

func numberOf(t *testing.T, e store.Entry) (n int) {
	_, err := fmt.Sscanf(string(e.Body), `{"pdus":[%d]}`, &n)
	require.NoError(t, err)
	return n
}

func (b *broken) path(relation string) (path string) {
	err := dial(b.T, b.options.ConnString).QueryRow(b.Context(), `SELECT pg_relation_filepath($1::text::regclass)`, "relay."+relation).Scan(&path)
	require.NoError(b, err)
	return filepath.Join(b.server.Dir(), "data", path)
}

// damage changes the file of a relation while the server is stopped.
func (b *broken) damage(relation string, how func(*broken, []byte)) {
	path := b.path(relation)
	b.server.Stop(b.T)
	file, err := os.ReadFile(path)
	require.NoError(b, err)
	how(b, file)
	require.NoError(b, os.WriteFile(path, file, 0o600))
	b.server.Start(b.T)
}

// brokenPage makes a page of a file, but for the first, unreadable.
func brokenPage(b *broken, file []byte) {
	at := (1 + b.random.IntN(max(len(file)/pageSize-1, 1))) * pageSize
	page := file[at : at+pageSize]
	if b.random.IntN(2) == 0 {
		clear(page)
		return
	}
	for i := range page {
		page[i] = byte(b.random.Uint32())
	}
}

// use does all that a relay does.
func (b *broken) use(index string) {
	s := open(b.T, b.options)
	defer func() { require.NoError(b, s.Close()) }()
	refused, acked := 0, 0
	for range 30 {
		n, m := b.mail()
		if _, err := s.Put(b.Context(), m, store.Limits{OriginEntries: 1 << 40, StoreEntries: 1 << 40}); err == nil {
			b.put(m.Destination, n)
		} else {
			require.ErrorContains(b, err, "REINDEX")
			refused++
		}
	}
	for _, name := range []spec.ServerName{"d0", "d1", "d2", "d3"} {
		b.requireAll(s, name)
		if b.ack(s, name, 10) {
			acked++
			b.requireAll(s, name)
		}
	}
	b.Logf("%s: %d of 30 puts were refused, %d of 4 mailboxes acknowledged in; the whole table was gone through: %v", index, refused, acked, !s.reader.said.IsZero())
}

// requireAll requires that all mail is handed out.
func (b *broken) requireAll(s *Store, name spec.ServerName) {
	b.Helper()
	found, after := 0, int64(0)
	for {
		entries, err := s.Next(b.Context(), name, after, 10_000, math.MaxInt64)
		if found == len(b.there[name]) {
			require.ErrorIs(b, err, store.ErrEmpty)
			return
		}
		require.NoError(b, err, "%d of %d", found, len(b.there[name]))
		for _, e := range entries {
			require.Greater(b, e.ID, after)
			require.True(b, b.there[name][numberOf(b.T, e)], "%s isn't for %s", e.Body, name)
			after = e.ID
			found++
		}
	}
}

// mend follows the advice of the error.
func (b *broken) mend() {
	execute(b.T, b.options, `REINDEX SCHEMA {s}`)
	s := open(b.T, b.options)
	defer func() { require.NoError(b, s.Close()) }()
	for _, name := range []spec.ServerName{"d0", "d1", "d2", "d3"} {
		b.requireAll(s, name)
		usage, err := s.Usage(b.Context(), name)
		require.NoError(b, err)
		require.EqualValues(b, len(b.there[name]), usage.Entries)
	}
}

// A page of the table itself that can't be read takes the mail on it, and holds up
// nothing else.
func TestBrokenTable(t *testing.T) {
	b := newBroken(t, rand.New(rand.NewPCG(seeds.Of(t, crashSeed), 6000)))
	b.fill()
	b.damage("entry", brokenPage)
	s := open(b.T, b.options)
	defer func() { require.NoError(b, s.Close()) }()
	stored := make(map[int]bool)
	for range 30 {
		n, m := b.mail()
		if _, err := s.Put(b.Context(), m, store.Limits{}); err == nil {
			stored[n] = true
			b.put(m.Destination, n)
		}
	}
	require.NotEmpty(b, stored)
	missing := 0
	for name, there := range b.there {
		entries, err := s.Next(b.Context(), name, 0, 10_000, math.MaxInt64)
		require.NoError(b, err)
		for _, e := range entries {
			n := numberOf(b.T, e)
			require.True(b, there[n])
			delete(stored, n)
		}
		missing += len(there) - len(entries)
		removed, err := s.Ack(b.Context(), name, entries[len(entries)-1].ID)
		require.NoError(b, err)
		require.Equal(b, len(entries), removed)
		_, err = s.Next(b.Context(), name, 0, 1, 1)
		require.ErrorIs(b, err, store.ErrEmpty)
	}
	require.Empty(b, stored, "a Put answered nil for these")
	require.Positive(b, missing)
	require.Less(b, missing, pageSize/100, "as many as a page has at most")
}
