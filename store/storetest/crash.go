package storetest

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var crashTests = []test{
	{"when nothing is under way", testCrashIdle},
	{"under load", testCrashUnderLoad},
}

// crash ends the place and opens it again.
func (r *rig) crash() {
	r.Helper()
	r.place.Crash(r.T)
	_ = r.Close() // its place is gone
	r.Store = r.open()
}

func testCrashIdle(r *rig) {
	mails := letters(here, 6)
	r.keep(mails[:4]...)
	r.crash()
	r.holds(here, mails[:4]...)
	for _, mail := range mails[:4] {
		require.False(r, r.put(mail), "kept mail is a copy")
	}
	r.keep(mails[4:]...)
	r.ack(here, r.holds(here, mails...)[1].ID)
	note := store.Note{Key: "a", Value: []byte("b")}
	notes, hasNotes := r.Store.(store.Notes)
	if hasNotes {
		require.NoError(r, notes.SetNotes(r.Context(), []store.Note{note}))
	}
	r.crash()
	r.hasEach(here, mails[2:]) // the Ack may be undone
	if hasNotes {
		require.Equal(r, []store.Note{note}, r.noted(""))
	}
}

// crashWriters put at once, each in order, to here and there by turns.
const crashWriters = 8

// A crashLoad is the knowledge of writers and a receiver when the place ends.
type crashLoad struct {
	answered [crashWriters][]store.Mail // with success
	count    atomic.Int64

	mu      sync.Mutex
	fetched map[spec.ServerName]int64 // the largest ID that was seen
	gone    map[store.Digest]bool     // for which an Ack was begun
}

func testCrashUnderLoad(r *rig) {
	l := &crashLoad{fetched: make(map[spec.ServerName]int64), gone: make(map[store.Digest]bool)}
	for round := range fewer(4) {
		ctx, stop := context.WithCancel(r.Context())
		s := r.Store
		finish := r.launch(crashWriters+1, func(i int) error {
			if i < crashWriters {
				l.write(ctx, s, i, round)
			} else {
				l.receive(ctx, s)
			}
			return nil
		})
		target := l.count.Load() + 20*crashWriters
		r.eventually("mail is put", func() bool { return l.count.Load() >= target })
		r.place.Crash(r.T)
		stop()
		_ = s.Close() // its place is gone
		finish()
		r.Store = r.open()
		l.check(r)
	}
}

// write puts mail until a Put fails.
func (l *crashLoad) write(ctx context.Context, s store.Store, writer, round int) {
	for n := 0; ; n++ {
		mail := letter([]spec.ServerName{here, there}[n%2], 1_000_000*round+10_000*writer+n)
		mail.Origin = spec.ServerName(string(rune('a' + writer)))
		if _, err := s.Put(ctx, mail, store.Limits{}); err != nil {
			return
		}
		l.answered[writer] = append(l.answered[writer], mail)
		l.count.Add(1)
	}
}

// receive fetches and acknowledges the mail of here now and then, and looks at that of
// there.
func (l *crashLoad) receive(ctx context.Context, s store.Store) {
	for turn := 0; ctx.Err() == nil; turn++ {
		to := []spec.ServerName{here, there}[turn%2]
		entries, err := s.Next(ctx, to, 0, 5, plenty)
		if err != nil {
			continue
		}
		last := entries[len(entries)-1].ID
		l.mu.Lock()
		l.fetched[to] = max(l.fetched[to], last)
		if to == here {
			for _, entry := range entries {
				l.gone[entry.Digest] = true
			}
		}
		l.mu.Unlock()
		if to == here {
			_, _ = s.Ack(ctx, to, last) // it may be undone
		}
	}
}

// check requires that all is there that was put with success and not
// acknowledged, once and in order, and that new mail gets new IDs.
func (l *crashLoad) check(r *rig) {
	r.Helper()
	for _, to := range []spec.ServerName{here, there} {
		place := make(map[gomatrixserverlib.TransactionID]int)
		entries := r.all(to)
		for i, entry := range entries {
			require.NotContains(r, place, entry.TransactionID, "it is there twice")
			place[entry.TransactionID] = i
		}
		for _, mails := range l.answered {
			last := -1
			for _, mail := range mails {
				at, found := place[mail.TransactionID]
				if mail.Destination != to || l.gone[mail.Digest] && !found {
					continue
				}
				require.True(r, found, "%q was put with success, and is lost", mail.TransactionID)
				require.Greater(r, at, last, "%q is out of order", mail.TransactionID)
				require.False(r, r.put(mail), "kept mail is a copy")
				last = at
			}
		}
		mail := letter(to, -int(l.count.Add(1)))
		r.keep(mail)
		l.answered[0] = append(l.answered[0], mail)
		entries = r.all(to)
		newest := entries[len(entries)-1]
		require.Equal(r, mail.TransactionID, newest.TransactionID)
		require.Greater(r, newest.ID, l.fetched[to], "an ID was given again")
		require.True(r, slices.IsSorted(ids(entries)))
	}
}
