package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/store"
)

// TestDamagedPages changes one byte, or clears a page, on pages of a small database:
// while it is closed, while it is open, and after a crash. All mail whose own row isn't
// on that page must be handed out, right and in order; nothing else may be; and mail
// that is put with success afterwards must be there.
//
// It tries a random page of each kind in each of these states, with -short in one of
// them. RELAY_DAMAGE_ROUNDS has it try every page that often instead;
// RELAY_DAMAGE_SEED makes the same choices again.
func TestDamagedPages(t *testing.T) {
	rounds, seed := seeds.Count(t, "RELAY_DAMAGE_ROUNDS", 0), seeds.Of(t, "RELAY_DAMAGE_SEED")
	healthy := newSpecimen(t)
	t.Logf("%d pages: %v", healthy.pages, healthy.kinds)
	if rounds == 0 {
		healthy.sample(t, rand.New(rand.NewPCG(seed, 0)))
	}
	for round := range rounds {
		for n := 1; n <= healthy.pages; n++ {
			random := rand.New(rand.NewPCG(seed, uint64(n*1000+round)))
			healthy.try(t, n, damageStates[random.IntN(len(damageStates))], random)
		}
	}
}

// damageStates are those in which a store is when its database is damaged.
var damageStates = []string{"closed", "open", "crashed"}

// sample harms a page of each kind in each state.
func (x *specimen) sample(t *testing.T, random *rand.Rand) {
	for _, kind := range slices.Sorted(maps.Keys(x.kinds)) {
		states := damageStates
		if testing.Short() {
			one := random.IntN(len(states))
			states = states[one : one+1]
		}
		for _, while := range states {
			x.try(t, x.kinds[kind][random.IntN(len(x.kinds[kind]))], while, random)
		}
	}
}

func (x *specimen) try(t *testing.T, page int, while string, random *rand.Rand) {
	d := &damage{
		specimen: x, t: t, name: fmt.Sprintf("page %d %s", page, while),
		page: page, while: while, isCleared: random.IntN(4) == 0, random: random,
	}
	d.run()
	if t.Failed() {
		t.Fatal(d.name, d.what)
	}
}

// A damage is one case.
type damage struct {
	*specimen
	t      *testing.T
	random *rand.Rand
	name   string

	page      int
	while     string // the state of the store
	isCleared bool
	what      string
	added     []store.Mail
}

func (d *damage) run() {
	path := filepath.Join(d.t.TempDir(), "relay.db")
	copyFile(d.t, d.path, path)
	copyFile(d.t, d.path+"-lock", path+"-lock")
	options := Options{SweepInterval: time.Hour, Logger: slog.New(slog.DiscardHandler)}
	if d.while != "closed" {
		s, err := Open(path, options)
		require.NoError(d.t, err, d.name)
		for range 3 { // so that there is a log, and readers don't have all pages
			d.put(s)
		}
		if d.while == "open" {
			d.harm(path)
			d.put(s)
			d.use(s)
		} else {
			path = crashed(d.t, path)
			d.harm(path)
		}
		require.NoError(d.t, s.Close())
	} else {
		d.harm(path)
	}
	repaired := false
	for opened := 0; opened < 2; opened++ {
		s, err := Open(path, options)
		require.NoError(d.t, err, "%v %v", d.name, d.what)
		d.check(s)
		if s.Failure() == nil {
			d.put(s)
			d.putAgain(s)
			d.check(s)
		}
		if s.Failure() != nil { // damage that showed only now, such as in a long body, is repaired at the next open
			require.False(d.t, repaired, "%v %v: %v", d.name, d.what, s.Failure())
			repaired, opened = true, -1
		}
		require.NoError(d.t, s.Close())
	}
}

// harm damages the page.
func (d *damage) harm(path string) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(d.t, err)
	var p page
	_, err = f.ReadAt(p[:], int64(d.page-1)*pageSize)
	require.NoError(d.t, err)
	before := p
	at := d.random.IntN(pageSize)
	if d.random.IntN(2) == 0 { // where its structure is
		at = d.random.IntN(120)
	}
	switch {
	case d.isCleared:
		clear(p[:])
		d.what = "cleared"
	default:
		p[at] ^= byte(1 + d.random.IntN(255))
		d.what = fmt.Sprintf("byte %d from %d to %d", at, before[at], p[at])
	}
	_, err = f.WriteAt(p[:], int64(d.page-1)*pageSize)
	require.NoError(d.t, err)
	require.NoError(d.t, f.Close())
}

// put adds mail, which must be there later if it was taken.
func (d *damage) put(s *Store) {
	m := bigMail(5000+len(d.added)+d.random.IntN(1<<20)<<8, 200)
	m.Destination = "server2.example"
	if _, err := s.Put(context.Background(), m, store.Limits{}); err == nil {
		d.added = append(d.added, m)
	}
}

// putAgain does as senders whose mail may have been lost. It must be there then,
// also if it is taken for a copy.
func (d *damage) putAgain(s *Store) {
	for _, entries := range d.mails {
		for _, e := range entries {
			if !slices.Contains(d.on[e.ID], d.page) {
				continue
			}
			if _, err := s.Put(context.Background(), e.Mail, store.Limits{}); err == nil {
				d.added = append(d.added, e.Mail)
			}
		}
	}
}

// use reads in a database that was damaged while it is open, acknowledges the mail
// that it got, and puts the same again.
func (d *damage) use(s *Store) {
	for name, want := range d.mails {
		var got []store.Entry
		for after := int64(0); ; {
			entries, err := s.Next(context.Background(), name, after, 1+d.random.IntN(20), math.MaxInt64)
			if err != nil {
				break
			}
			got = append(got, entries...)
			after = entries[len(entries)-1].ID
		}
		d.right(name, got)
		d.putAgain(s)
		if len(got) == 0 || d.random.IntN(2) == 0 {
			continue
		}
		up := got[d.random.IntN(len(got))].ID
		if _, err := s.Ack(context.Background(), name, up); err == nil {
			d.acknowledge(name, got, up)
		}
		again := want[d.random.IntN(len(want))].Mail
		if stored, err := s.Put(context.Background(), again, store.Limits{}); err == nil && stored {
			d.added = append(d.added, again)
		}
	}
}

// acknowledge stops expecting mail that a receiver has seen.
func (d *damage) acknowledge(name spec.ServerName, got []store.Entry, up int64) {
	seen := make(map[store.Digest]bool)
	for _, e := range got {
		if e.ID <= up {
			seen[e.Digest] = true
		}
	}
	d.specimen = d.without(func(e store.Entry) bool { return e.Destination == name && seen[e.Digest] })
	d.added = slices.DeleteFunc(d.added, func(m store.Mail) bool { return m.Destination == name && seen[m.Digest] })
}

func (x *specimen) without(leave func(store.Entry) bool) *specimen {
	other := *x
	other.mails = maps.Clone(x.mails)
	for name, entries := range other.mails {
		other.mails[name] = slices.DeleteFunc(slices.Clone(entries), leave)
	}
	return &other
}

// check requires that all mail is there, right and in order, but mail that has a row
// on the damaged page.
func (d *damage) check(s *Store) {
	names := slices.Collect(maps.Keys(d.mails))
	for _, name := range names {
		entries, err := s.Next(context.Background(), name, 0, 1000, math.MaxInt64)
		if !errors.Is(err, store.ErrEmpty) {
			require.NoError(d.t, err, "%v %v", d.name, d.what)
		}
		d.right(name, entries)
		found := make(map[store.Digest]bool)
		for _, e := range entries {
			found[e.Digest] = true
		}
		for _, e := range d.mails[name] {
			if !found[e.Digest] && !slices.Contains(d.on[e.ID], d.page) {
				d.t.Errorf("%s, %s: entry %d of %s is lost; it is on pages %v", d.name, d.what, e.ID, name, d.on[e.ID])
			}
		}
		for _, m := range d.added {
			if m.Destination == name && !found[m.Digest] {
				d.t.Errorf("%s, %s: mail %s that was put for %s isn't there", d.name, d.what, m.TransactionID, name)
			}
		}
	}
}

// right requires that entries are as they were put, each once, and in order.
func (d *damage) right(name spec.ServerName, entries []store.Entry) {
	last := int64(0)
	for _, e := range entries {
		require.Greater(d.t, e.ID, last, "%v %v", d.name, d.what)
		last = e.ID
		n := 0
		_, err := fmt.Sscanf(string(e.TransactionID), "txn%d", &n)
		require.NoError(d.t, err)
		want := bigMail(n, len(e.Body))
		want.Destination, want.Lifetime = name, e.Lifetime
		require.Equal(d.t, want, e.Mail, "%v %v", d.name, d.what)
	}
}
