package storetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

const (
	// longRetention outlives every test, shortRetention can be waited for, and
	// with noRetention a store forgets at once, or soon.
	longRetention  = 24 * time.Hour
	shortRetention = 50 * time.Millisecond
	noRetention    = -time.Second

	// plenty is more than any mailbox in a test has, in entries or in bytes.
	plenty = 1 << 30
)

// patience is how long a thing may take that has to happen soon.
var patience = time.Minute

// A rig is the surroundings of a test: a place with a store open in it. Its
// methods end the test on any error, so they are not for other goroutines than
// that of the test.
type rig struct {
	*testing.T
	store.Store
	place     Place
	kind      string // of damage
	retention time.Duration
	few       few
	newPlace  func(testing.TB) Place
}

func newRig(t *testing.T, newPlace func(testing.TB) Place, g group) *rig {
	r := &rig{T: t, place: newPlace(t), newPlace: newPlace, retention: cmp.Or(g.retention, longRetention), few: g.few}
	r.kind = r.place.kinds()[0]
	r.Store = r.open()
	return r
}

// fresh runs a subtest in a place of its own.
func (r *rig) fresh(name string, run func(*rig)) {
	r.Run(name, func(t *testing.T) { run(newRig(t, r.newPlace, group{retention: r.retention, few: r.few})) })
}

// open opens the place, which may be open already if it is a shared one.
func (r *rig) open() store.Store {
	s := r.openPlace()
	r.Cleanup(func() { assert.NoError(r.T, s.Close()) })
	return s
}

func (r *rig) openPlace() store.Store {
	if r.few == (few{}) {
		return r.place.Open(r.T, r.retention)
	}
	return r.place.OpenFew(r.T, r.few.ofAll, r.few.ofOrigin)
}

func (r *rig) reopen() {
	r.Helper()
	require.NoError(r, r.Close())
	r.Store = r.open()
}

// put puts mail without limits and returns whether it was stored.
func (r *rig) put(mail store.Mail) bool {
	r.Helper()
	stored, err := r.Put(r.Context(), mail, store.Limits{})
	require.NoError(r, err)
	return stored
}

// keep puts mails that are new to the store.
func (r *rig) keep(mails ...store.Mail) {
	r.Helper()
	for _, mail := range mails {
		require.True(r, r.put(mail), "new mail %q was taken for a copy", mail.TransactionID)
	}
}

// full requires that mail is refused for want of room.
func (r *rig) full(mail store.Mail, limits store.Limits) {
	r.Helper()
	stored, err := r.Put(r.Context(), mail, limits)
	require.ErrorIs(r, err, store.ErrFull)
	require.False(r, stored)
}

// fits requires that mail is stored within the limits.
func (r *rig) fits(mail store.Mail, limits store.Limits) {
	r.Helper()
	stored, err := r.Put(r.Context(), mail, limits)
	require.NoError(r, err)
	require.True(r, stored)
}

func (r *rig) ack(destination spec.ServerName, id int64) int {
	r.Helper()
	removed, err := r.Ack(r.Context(), destination, id)
	require.NoError(r, err)
	return removed
}

func (r *rig) usage(destination spec.ServerName) store.Usage {
	r.Helper()
	usage, err := r.Usage(r.Context(), destination)
	require.NoError(r, err)
	return usage
}

// all returns everything in a mailbox.
func (r *rig) all(destination spec.ServerName) []store.Entry {
	r.Helper()
	entries, err := readAll(r.Context(), r.Store, destination)
	require.NoError(r, err)
	return entries
}

// holds requires that a mailbox has these mails in this order and no others,
// and returns its entries.
func (r *rig) holds(destination spec.ServerName, want ...store.Mail) []store.Entry {
	r.Helper()
	entries := r.all(destination)
	require.NoError(r, compare(want, entries), "in the mailbox of %q", destination)
	return entries
}

// empty requires that there is nothing in a mailbox.
func (r *rig) empty(destination spec.ServerName) {
	r.Helper()
	entries, err := r.Next(r.Context(), destination, 0, 1, plenty)
	require.ErrorIs(r, err, store.ErrEmpty)
	require.Empty(r, entries)
}

// eventually tries until done says so.
func (r *rig) eventually(what string, done func() bool) {
	r.Helper()
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; !done(); pause = min(2*pause, 250*time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("even after %v not: %s", patience, what)
		}
		time.Sleep(pause)
	}
}

// together runs n goroutines at once, waits for all and requires that none
// returned an error.
func (r *rig) together(n int, run func(i int) error) {
	r.Helper()
	r.launch(n, run)()
}

// launch is together without the waiting, which the function does that it
// returns.
func (r *rig) launch(n int, run func(i int) error) (finish func()) {
	errs := make([]error, n)
	start := make(chan struct{})
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() {
			<-start
			errs[i] = run(i)
		})
	}
	close(start)
	return func() {
		r.Helper()
		running.Wait()
		require.NoError(r, errors.Join(errs...))
	}
}

// background runs f in a goroutine. The function it returns requires that f
// soon ends, and without an error.
func (r *rig) background(f func() error) (finish func()) {
	result := make(chan error, 1)
	go func() { result <- f() }()
	return func() {
		r.Helper()
		select {
		case err := <-result:
			require.NoError(r, err)
		case <-time.After(patience):
			r.Fatalf("still running after %v", patience)
		}
	}
}

// fewer returns n, or less of it if the run is to be short.
func fewer(n int) int {
	if testing.Short() {
		return (n + 3) / 4
	}
	return n
}

// settle gives goroutines time to get to where a test would like to have them.
// No test may depend on it.
func settle() { time.Sleep(20 * time.Millisecond) }

// readAll returns everything in a mailbox.
func readAll(ctx context.Context, s store.Store, destination spec.ServerName) ([]store.Entry, error) {
	var all []store.Entry
	after := int64(0)
	for {
		page, err := s.Next(ctx, destination, after, 1000, plenty)
		if errors.Is(err, store.ErrEmpty) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		if len(page) == 0 {
			return all, fmt.Errorf("Next after %d answered nothing and no error", after)
		}
		for _, entry := range page {
			if entry.ID <= after {
				return all, fmt.Errorf("the IDs don't ascend: Next answered %v, with %d after %d", ids(page), entry.ID, after)
			}
			after = entry.ID
		}
		all = append(all, page...)
	}
}

// await waits for mail of destination as a caller of Wait does, and returns
// Next's entries then. It has run out of patience when that takes too long.
func await(ctx context.Context, s store.Store, destination spec.ServerName, after int64, maxEntries int) ([]store.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		entries, err := s.Next(ctx, destination, after, maxEntries, plenty)
		if !errors.Is(err, store.ErrEmpty) {
			return entries, err
		}
		if err := s.Wait(ctx, destination, after); err != nil {
			return nil, fmt.Errorf("waiting for mail of %q after %d: %w", destination, after, err)
		}
	}
}
