package main

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

const movedBack = spec.ServerName("d1")

// A cellStore is the database of a cell.
type cellStore struct {
	*testing.T
	*memory.Store
}

func newCellStore(t *testing.T) cellStore {
	t.Helper()
	s := memory.New(memory.Options{})
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return cellStore{t, s}
}

// fill puts mail for the server that is moved, and returns how much.
func (s cellStore) fill() (entries int64) {
	s.Helper()
	for _, m := range mailOf(s.T) {
		if m.Destination == movedBack {
			_, err := s.Put(s.Context(), m, store.Limits{})
			require.NoError(s, err)
			entries++
		}
	}
	return entries
}

// moveTo moves the mailbox to another database, whose IDs are greater than all in s.
func (s cellStore) moveTo(to store.Store) error {
	s.Helper()
	desk, err := admin.New(admin.Config{Store: s.Store, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(s, err)
	one := &mailboxMove{from: desk, to: to, name: movedBack, firstID: store.FirstID(time.Now().Add(time.Hour))}
	return one.all(s.Context())
}

func (s cellStore) requireHolds(want int64) {
	s.Helper()
	usage, err := s.Usage(s.Context(), movedBack)
	require.NoError(s, err)
	require.Equal(s, want, usage.Entries)
}

func (s cellStore) note(key, value string) {
	s.Helper()
	require.NoError(s, s.SetNotes(s.Context(), []store.Note{{Key: key, Value: []byte(value)}}))
}

// A mailbox that comes back within a day isn't lost, though each database remembers its
// mail as removed.
func TestMoveMailboxBack(t *testing.T) {
	a, b := newCellStore(t), newCellStore(t)
	entries := a.fill()
	require.NoError(t, a.moveTo(b.Store))
	b.requireHolds(entries)
	require.ErrorContains(t, b.moveTo(a.Store), "remembers")
	b.requireHolds(entries)
	a.requireHolds(0)
	c := newCellStore(t)
	require.NoError(t, b.moveTo(c.Store), "elsewhere it can go")
	c.requireHolds(entries)
}

// A move that was ended goes on, also if mail is in both databases.
func TestMoveMailboxGoesOn(t *testing.T) {
	a, b := newCellStore(t), newCellStore(t)
	entries := a.fill()
	b.fill()
	a.note("relay/record/d1", "of a")
	require.NoError(t, a.moveTo(b.Store))
	require.NoError(t, a.moveTo(b.Store))
	b.requireHolds(entries)
	a.requireHolds(0)
}

// The database of the relay itself, given by mistake, loses nothing.
func TestMoveMailboxToItself(t *testing.T) {
	a := newCellStore(t)
	entries := a.fill()
	require.ErrorContains(t, a.moveTo(a.Store), "the same database")
	a.requireHolds(entries)
}

// All that is remembered of a server goes with its mail, so that a later move back doesn't meet
// an older policy.
func TestMoveMailboxFacts(t *testing.T) {
	a, b := newCellStore(t), newCellStore(t)
	const policy, receipt, other = "relay/owned/d1", "relay/receipt/d1/a.example/0000000000000001", "relay/owned/d2"
	a.note(policy, "old")
	a.note(receipt, "receipt")
	a.note(other, "another's")
	require.NoError(t, a.moveTo(b.Store))
	for _, key := range []string{policy, receipt} {
		left, err := notebook.Read(t.Context(), a, key)
		require.NoError(t, err)
		require.Empty(t, left, key)
	}
	b.note(policy, "new")
	require.NoError(t, b.moveTo(a.Store))
	for key, want := range map[string]string{policy: "new", receipt: "receipt", other: "another's"} {
		got, err := notebook.Read(t.Context(), a, key)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
}

// A store that is behind has a clock that stands elsewhere.
type behind struct{ *memory.Store }

func (behind) StoreTime(context.Context) (time.Duration, error) { return 1_000_000 * time.Second, nil }

// A fact is as old in the new database as it was in the old one, though their clocks differ.
func TestMoveMailboxFactsKeepTheirAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newCellStore(t)
		b := newCellStore(t)
		now, err := a.StoreTime(t.Context())
		require.NoError(t, err)
		a.note("relay/record/d1", fmt.Sprintf(`{"changed":%d,"record":{}}`, now/time.Second-100_000))
		require.NoError(t, a.moveTo(behind{b.Store}))
		got, err := notebook.Read(t.Context(), b, "relay/record/d1")
		require.NoError(t, err)
		require.Equal(t, `{"changed":900000,"record":{}}`, string(got))
	})
}
