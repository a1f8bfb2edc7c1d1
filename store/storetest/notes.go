package storetest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// Stores that aren't store.Notes pass these by doing nothing.
var notesTests = []test{
	{"set, change, remove", testNotes},
	{"a key twice", testNoteTwice},
	{"odd keys", testOddKeys},
	{"pages of a prefix", testNotePages},
	{"reopen", testNotesReopen},
	{"closed", testNotesClosed},
	{"one note", testOneNote},
}

func (r *rig) notes() store.Notes {
	notes, ok := r.Store.(store.Notes)
	if !ok {
		r.Skip("the store has no notes")
	}
	return notes
}

func (r *rig) set(changes ...store.Note) {
	r.Helper()
	require.NoError(r, r.notes().SetNotes(r.Context(), changes))
}

func (r *rig) noted(prefix string) []store.Note {
	r.Helper()
	notes, err := r.notes().Notes(r.Context(), prefix, "", math.MaxInt32)
	require.NoError(r, err)
	require.NotNil(r, notes)
	return notes
}

func testNotes(r *rig) {
	require.Empty(r, r.noted(""))
	a, b := store.Note{Key: "a", Value: []byte{0, 1, 255}}, store.Note{Key: "b", Value: []byte("x")}
	r.set(b, a)
	require.Equal(r, []store.Note{a, b}, r.noted(""))
	a.Value = []byte("other")
	r.set(a, store.Note{Key: "b"}, store.Note{Key: "never there"})
	require.Equal(r, []store.Note{a}, r.noted(""))
	r.set()
	require.Equal(r, []store.Note{a}, r.noted(""))
	require.Zero(r, r.usage(""), "notes are no mail")
}

// Of two changes of a key the last counts.
func testNoteTwice(r *rig) {
	first, last := store.Note{Key: "a", Value: []byte("first")}, store.Note{Key: "a", Value: []byte("last")}
	r.set(first, store.Note{Key: "a"}, last)
	require.Equal(r, []store.Note{last}, r.noted(""))
	r.set(first, store.Note{Key: "a"})
	require.Empty(r, r.noted(""))
}

func testOddKeys(r *rig) {
	var notes []store.Note
	for _, key := range append([]string{" ", "\x00", "a\x00", "a\x00b", "\xff", "*", ">", "a.b", "a b", "%", "_"}, strings.Repeat("k", store.MaxName)) {
		notes = append(notes, store.Note{Key: key, Value: []byte("of " + key)})
	}
	r.set(notes...)
	slices.SortFunc(notes, func(a, b store.Note) int { return strings.Compare(a.Key, b.Key) })
	require.Equal(r, notes, r.noted(""))
	for _, key := range []string{"", strings.Repeat("k", store.MaxName+1)} {
		err := r.notes().SetNotes(r.Context(), []store.Note{{Key: "new", Value: []byte("x")}, {Key: key, Value: []byte("x")}})
		require.ErrorIs(r, err, store.ErrInvalid)
	}
	require.Equal(r, notes, r.noted(""), "all changes are made or none")
}

func testNotePages(r *rig) {
	var want []store.Note
	for i := range 7 {
		want = append(want, store.Note{Key: fmt.Sprintf("p/%d", i), Value: []byte{byte(i)}})
	}
	r.set(want...)
	r.set(store.Note{Key: "p", Value: []byte("x")}, store.Note{Key: "o", Value: []byte("x")}, store.Note{Key: "p0", Value: []byte("x")})
	var got []store.Note
	for after := ""; ; after = got[len(got)-1].Key {
		page, err := r.notes().Notes(r.Context(), "p/", after, 3)
		require.NoError(r, err)
		if len(page) == 0 {
			break
		}
		require.LessOrEqual(r, len(page), 3)
		got = append(got, page...)
	}
	require.Equal(r, want, got)
}

// Stores that aren't store.NoteReader pass it by doing nothing.
func testOneNote(r *rig) {
	reader, ok := r.Store.(store.NoteReader)
	if !ok {
		r.Skip("the store reads pages of notes only")
	}
	requireNone := func(key string) {
		r.Helper()
		_, err := reader.Note(r.Context(), key)
		require.ErrorIs(r, err, store.ErrEmpty)
	}
	r.set(store.Note{Key: "key", Value: []byte{0, 255}}, store.Note{Key: "longer", Value: []byte("x")})
	value, err := reader.Note(r.Context(), "key")
	require.NoError(r, err)
	require.Equal(r, []byte{0, 255}, value)
	requireNone("long")
	r.set(store.Note{Key: "key"})
	requireNone("key")
	requireNone("")
	require.NoError(r, r.Store.Close())
	_, err = reader.Note(r.Context(), "longer")
	require.ErrorIs(r, err, store.ErrClosed)
}

func testNotesReopen(r *rig) {
	note := store.Note{Key: "k", Value: []byte("v")}
	r.set(note)
	if r.place.Volatile {
		return
	}
	r.reopen()
	require.Equal(r, []store.Note{note}, r.noted(""))
}

func testNotesClosed(r *rig) {
	notes := r.notes()
	canceled, cancel := context.WithCancel(r.Context())
	cancel()
	require.ErrorIs(r, notes.SetNotes(canceled, []store.Note{{Key: "a"}}), context.Canceled)
	require.NoError(r, r.Close())
	require.ErrorIs(r, notes.SetNotes(r.Context(), []store.Note{{Key: "a"}}), store.ErrClosed)
	_, err := notes.Notes(r.Context(), "", "", 1)
	require.ErrorIs(r, err, store.ErrClosed)
}
