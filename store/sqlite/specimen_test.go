package sqlite

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// A specimen is a database with all kinds of pages.
type specimen struct {
	path  string
	pages int
	kinds map[string][]int // the pages of each kind
	mails map[spec.ServerName][]store.Entry
	notes []store.Note
	gone  []store.Mail    // acknowledged
	on    map[int64][]int // the pages of each entry
}

func bigMail(n, size int) store.Mail {
	m := mail(n)
	m.Destination = spec.ServerName(fmt.Sprintf("server%d.example", n%7))
	m.Origin = spec.ServerName(fmt.Sprintf("origin%d.example", n%3))
	m.TransactionID = gomatrixserverlib.TransactionID(fmt.Sprint("txn", n))
	m.Body = []byte(strings.Repeat(fmt.Sprintf("%06d ", n), size/7+1))[:size]
	m.Proof = []byte(fmt.Sprint("proof of ", n))
	return m
}

func newSpecimen(t *testing.T) *specimen {
	x := &specimen{
		path: filepath.Join(t.TempDir(), "relay.db"), mails: make(map[spec.ServerName][]store.Entry),
		kinds: make(map[string][]int), on: make(map[int64][]int),
	}
	s, err := Open(x.path, Options{SweepInterval: time.Hour})
	require.NoError(t, err)
	var puts []store.Mail
	for n := range 130 {
		m := bigMail(n, 100)
		switch {
		case n%31 == 5:
			m.Body = bigMail(n, 14_000).Body
		case n%50 == 7:
			m.Destination = store.Private("part", m.Destination)
		case n%10 == 3:
			m.Lifetime = 1000 * time.Hour
		}
		puts = append(puts, m)
	}
	require.NoError(t, s.PutAll(t.Context(), puts))
	for n := range 60 {
		x.notes = append(x.notes, store.Note{Key: fmt.Sprintf("note%03d", n), Value: []byte(strings.Repeat("v", 100+n))})
	}
	require.NoError(t, s.SetNotes(t.Context(), x.notes))
	fill := bigMail(1000, 40_000)
	fill.Destination = "server0.example"
	put(t, s, fill)
	entries := x.read(t, s)
	_, err = s.Ack(t.Context(), "server1.example", entries["server1.example"][4].ID)
	require.NoError(t, err)
	for _, e := range entries["server1.example"][:5] {
		x.gone = append(x.gone, e.Mail)
	}
	fillID := entries["server0.example"][len(entries["server0.example"])-1].ID
	require.NoError(t, s.writer.do(t.Context(), func(b *batch) error { // its pages are free then
		return b.retire(fillID, func(*entryRow) bool { return true })
	}, 0))
	x.mails = x.read(t, s)
	require.NoError(t, s.Close())
	x.examine(t)
	return x
}

// read returns all mail.
func (x *specimen) read(t *testing.T, s *Store) map[spec.ServerName][]store.Entry {
	all := make(map[spec.ServerName][]store.Entry)
	for _, half := range []spec.ServerName{"", store.PrivateHalf} {
		names, err := s.Destinations(t.Context(), half, 100)
		require.NoError(t, err)
		for _, name := range names {
			entries, err := s.Next(t.Context(), name, 0, 1000, math.MaxInt64)
			require.NoError(t, err)
			all[name] = entries
		}
	}
	return all
}

// examine finds out on which pages each entry is.
func (x *specimen) examine(t *testing.T) {
	from, err := openSalvage(x.path)
	require.NoError(t, err)
	defer func() { require.NoError(t, from.close()) }()
	x.pages = int(from.pages)
	require.NoError(t, from.scan(func(store.Note) error { return nil }))
	require.NotEmpty(t, from.free)
	var p page
	for n := uint32(1); n <= from.pages; n++ {
		require.NoError(t, from.read(n, &p))
		kind := kindOf(from, n, &p)
		x.kinds[kind] = append(x.kinds[kind], int(n))
		if p[0] != tableLeaf {
			continue
		}
		cells, isWhole := p.cells(0)
		require.True(t, isWhole)
		for _, c := range cells {
			x.on[c.rowID] = append(x.on[c.rowID], int(n))
			for next, left := c.beyond, c.size-int64(len(c.local)); left > 0; left -= pageSize - 4 {
				x.on[c.rowID] = append(x.on[c.rowID], int(next))
				require.NoError(t, from.read(next, &p))
				next = uint32(p[0])<<24 | uint32(p[1])<<16 | uint32(p[2])<<8 | uint32(p[3])
			}
			require.NoError(t, from.read(n, &p))
		}
	}
	for _, kind := range []string{
		"first", "map", "free", "rest of a row", "table leads on", "index leads on", "leaf of 13 in table", "leaf of 8 in table", "leaf of 4 in index",
	} {
		require.NotEmpty(t, x.kinds[kind], "pages of kind %s: %v", kind, x.kinds)
	}
}

// kindOf says where the page is used. Of leaves it says how many columns they have,
// which tells most tables and indexes apart.
func kindOf(from *salvage, n uint32, p *page) string {
	_, isFree := from.free[n]
	where := map[byte]string{tableLeaf: "table", tableInterior: "table", indexLeaf: "index", indexInterior: "index"}[p[0]]
	switch {
	case n == 1:
		return "first"
	case from.isMap(n):
		return "map"
	case isFree:
		return "free"
	case where == "":
		return "rest of a row"
	case p[0] == tableInterior || p[0] == indexInterior:
		return where + " leads on"
	}
	columns := 0
	if cells, _ := p.cells(0); len(cells) > 0 {
		kinds, _ := kinds(cells[0].local, cells[0].size)
		columns = len(kinds)
	}
	return fmt.Sprintf("leaf of %d in %s", columns, where)
}
