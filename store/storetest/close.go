package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var contextTests = []test{
	{"has ended before", testContextEnded},
	{"a Put that was given up can be repeated", testPutAgain},
}

var closeTests = []test{
	{"ends every call", testClosed},
	{"twice and at once", testCloseAtOnce},
	{"while Puts are under way", testCloseDuringPuts},
	{"while everything is under way", testCloseDuringAll},
}

// calls is every method with a context.
var calls = []struct {
	name string
	do   func(context.Context, store.Store) error
}{
	{"Put", func(ctx context.Context, s store.Store) error {
		_, err := s.Put(ctx, letter(here, 1), store.Limits{})
		return err
	}},
	{"Next", func(ctx context.Context, s store.Store) error {
		_, err := s.Next(ctx, here, 0, 1, plenty)
		return err
	}},
	{"Ack", func(ctx context.Context, s store.Store) error {
		_, err := s.Ack(ctx, here, 1)
		return err
	}},
	{"Wait", func(ctx context.Context, s store.Store) error { return s.Wait(ctx, here, 0) }},
	{"Destinations", func(ctx context.Context, s store.Store) error {
		_, err := s.Destinations(ctx, "", 1)
		return err
	}},
	{"Usage", func(ctx context.Context, s store.Store) error {
		_, err := s.Usage(ctx, here)
		return err
	}},
	{"Usage of all", func(ctx context.Context, s store.Store) error {
		_, err := s.Usage(ctx, "")
		return err
	}},
}

func testContextEnded(r *rig) {
	r.keep(letter(here, 0), letter(there, 0))
	canceled, cancel := context.WithCancel(r.Context())
	cancel()
	late, cancel := context.WithDeadline(r.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, call := range calls {
		require.ErrorIs(r, call.do(canceled, r.Store), context.Canceled, call.name)
		require.ErrorIs(r, call.do(late, r.Store), context.DeadlineExceeded, call.name)
	}
	r.holds(there, letter(there, 0))
}

// The context of a Put may end at any moment: then it's unknown whether the
// mail was stored, but putting it again makes sure of it, and stores it once.
func testPutAgain(r *rig) {
	mails := letters(here, fewer(40))
	for i, mail := range mails {
		ctx, cancel := context.WithCancel(r.Context())
		finish := r.background(func() error {
			_, err := r.Put(ctx, mail, store.Limits{})
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		})
		time.Sleep(time.Duration(i) * 20 * time.Microsecond)
		cancel()
		finish()
		r.put(mail)
	}
	r.holds(here, mails...)
	require.Equal(r, store.Usage{Entries: int64(len(mails)), Bytes: bytesOf(mails...)}, r.usage(here))
}

func testClosed(r *rig) {
	r.keep(letter(here, 1), letter(there, 1))
	require.NoError(r, r.Close())
	for range 2 {
		for _, call := range calls {
			require.ErrorIs(r, call.do(r.Context(), r.Store), store.ErrClosed, call.name)
		}
		require.NoError(r, r.Close())
	}
}

func testCloseAtOnce(r *rig) {
	r.keep(letter(here, 1))
	r.together(8, func(int) error {
		if err := r.Close(); err != nil {
			return err
		}
		_, err := r.Next(r.Context(), here, 0, 1, plenty)
		if !errors.Is(err, store.ErrClosed) {
			return fmt.Errorf("a Close has returned, and Next gives %w", err)
		}
		return nil
	})
}

// Mail that a Put said is stored is there after Close. A Put either was accepted,
// and then Close waits for it, or came too late.
func testCloseDuringPuts(r *rig) {
	const putters = 8
	var stored [putters][]store.Mail
	var puts atomic.Int64
	finish := r.launch(putters, func(i int) error {
		for n := 0; ; n++ {
			mail := letter(here, 1000000*i+n)
			_, err := r.Put(r.Context(), mail, store.Limits{})
			if errors.Is(err, store.ErrClosed) {
				return nil
			}
			if err != nil {
				return err
			}
			stored[i] = append(stored[i], mail)
			puts.Add(1)
		}
	})
	r.eventually("Puts are under way", func() bool { return puts.Load() > 2*putters })
	require.NoError(r, r.Close())
	finish()
	if !r.place.Volatile {
		r.Store = r.open()
		r.hasEach(here, slices.Concat(stored[:]...))
	}
}

// hasEach requires that each of these mails is in the mailbox once.
func (r *rig) hasEach(destination spec.ServerName, mails []store.Mail) {
	r.Helper()
	found := make(map[gomatrixserverlib.TransactionID]int)
	for _, entry := range r.all(destination) {
		found[entry.TransactionID]++
	}
	for _, mail := range mails {
		require.Equal(r, 1, found[mail.TransactionID], "how often %q is there", mail.TransactionID)
	}
}

func testCloseDuringAll(r *rig) {
	var made atomic.Int64
	finish := r.launch(2*len(calls), func(i int) error {
		call := calls[i/2]
		for {
			err := call.do(r.Context(), r.Store)
			if errors.Is(err, store.ErrClosed) {
				return nil
			}
			if err != nil && !errors.Is(err, store.ErrEmpty) {
				return fmt.Errorf("%s while the store is being closed: %w", call.name, err)
			}
			made.Add(1)
		}
	})
	r.eventually("calls are under way", func() bool { return made.Load() > 100 })
	require.NoError(r, r.Close())
	finish()
}
