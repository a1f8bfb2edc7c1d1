package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var waitTests = []test{
	{"mail is there", testWaitMailIsThere},
	{"woken by Put", testWaitWoken},
	{"blocks while there is no mail", testWaitBlocks},
	{"after", testWaitAfter},
	{"ends with its context", testWaitContext},
	{"ended by Close", testWaitClose},
	{"many wait for one", testWaitMany},
	{"a Put at each look at the context", testWaitPry},
	{"no Put is missed", testWaitRace},
}

// fewEarly is how often Wait may return nil too early in a test. A caller that
// then waits again must not find itself in a busy loop.
const fewEarly = 5

// wait runs Wait with patience.
func (r *rig) wait(destination spec.ServerName, after int64) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	require.NoError(r, r.Wait(ctx, destination, after))
}

func testWaitMailIsThere(r *rig) {
	r.keep(letters(here, 2)...)
	r.wait(here, 0)
	r.wait(here, r.all(here)[0].ID)
	r.keep(letter(there, 1))
	r.wait(there, 0)
}

func testWaitWoken(r *rig) {
	for i := range 5 {
		after := int64(0)
		if entries := r.all(here); len(entries) > 0 {
			after = entries[len(entries)-1].ID
		}
		finish := r.background(func() error {
			entries, err := await(r.Context(), r.Store, here, after, 10)
			if err != nil {
				return err
			}
			return compare([]store.Mail{letter(here, i)}, entries)
		})
		settle()
		r.keep(letter(there, i), letter(here, i))
		finish()
	}
}

// earlyReturns waits for a destination, again and again, until meanwhile has
// ended, and returns how often Wait returned nil.
func (r *rig) earlyReturns(destination spec.ServerName, after int64, meanwhile func()) int {
	r.Helper()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	returns := 0
	finish := r.background(func() error {
		for {
			err := r.Wait(ctx, destination, after)
			if errors.Is(err, context.Canceled) {
				return nil
			}
			if err != nil {
				return err
			}
			returns++
		}
	})
	settle()
	meanwhile()
	cancel()
	finish()
	return returns
}

func testWaitBlocks(r *rig) {
	const puts = 20
	early := r.earlyReturns(here, 0, func() { time.Sleep(100 * time.Millisecond) })
	require.LessOrEqual(r, early, fewEarly, "Wait of an empty mailbox returned nil without any Put")
	early = r.earlyReturns(here, 0, func() {
		for i := range puts {
			r.keep(letter(there, i))
		}
		settle()
	})
	require.LessOrEqual(r, early, puts+fewEarly, "Wait of an empty mailbox returned nil more often than there was a Put to another")
}

func testWaitAfter(r *rig) {
	r.keep(letters(here, 3)...)
	entries := r.all(here)
	early := r.earlyReturns(here, entries[2].ID, func() { time.Sleep(100 * time.Millisecond) })
	require.LessOrEqual(r, early, fewEarly, "Wait returned nil though there was no mail behind after")
	finish := r.background(func() error {
		found, err := await(r.Context(), r.Store, here, entries[2].ID, 1)
		if err != nil {
			return err
		}
		return compare([]store.Mail{letter(here, 4)}, found)
	})
	settle()
	r.keep(letter(here, 4))
	finish()

	r.ack(here, entries[2].ID)
	r.wait(here, entries[1].ID)
}

// A caller that gives up must not take along the others that wait for the same.
func testWaitContext(r *rig) {
	patient := r.background(func() error {
		_, err := await(r.Context(), r.Store, here, 0, 1)
		return err
	})
	settle()
	ctx, cancel := context.WithCancel(r.Context())
	finish := r.background(func() error { return waitUntil(ctx, r.Store, context.Canceled, nil) })
	settle()
	cancel()
	finish()

	ctx, cancel = context.WithTimeout(r.Context(), 20*time.Millisecond)
	defer cancel()
	require.NoError(r, waitUntil(ctx, r.Store, context.DeadlineExceeded, nil))
	r.keep(letter(here, 1))
	patient()
}

// waitUntil waits here, and again if that ends too early, which it counts,
// until it ends with an error, which must be this one.
func waitUntil(ctx context.Context, s store.Store, want error, early func()) error {
	for {
		err := s.Wait(ctx, here, 0)
		switch {
		case errors.Is(err, want):
			return nil
		case err != nil:
			return fmt.Errorf("wait ended with %w instead of: %w", err, want)
		case early != nil:
			early()
		}
	}
}

func testWaitClose(r *rig) {
	const waiters = 20
	var early atomic.Int64
	var finish []func()
	for range waiters {
		finish = append(finish, r.background(func() error {
			return waitUntil(r.Context(), r.Store, store.ErrClosed, func() { early.Add(1) })
		}))
	}
	settle()
	require.NoError(r, r.Close())
	for _, f := range finish {
		f()
	}
	require.LessOrEqual(r, early.Load(), int64(fewEarly), "Waits that Close ended without an error")
}

func testWaitMany(r *rig) {
	var finish []func()
	for range fewer(1000) {
		finish = append(finish, r.background(func() error {
			_, err := await(r.Context(), r.Store, here, 0, 1)
			return err
		}))
	}
	settle()
	r.keep(letter(here, 1))
	for _, f := range finish {
		f()
	}
}
