package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var stallTests = []test{
	{"a Put ends with its context", testStalledPut},
	{"so does every call", testStalledCalls},
	{"and goes on afterwards", testStalledGoesOn},
}

// stall stalls the place until resume is called, or the test has ended.
func (r *rig) stall() (resume func()) {
	r.Helper()
	resume = sync.OnceFunc(r.place.Stall(r.T))
	r.Cleanup(resume) // before the store is closed
	return resume
}

// canceledSoon calls with a context that ends while the call is under way, and
// requires that the call ends, too.
func (r *rig) canceledSoon(name string, call func(context.Context) error) {
	r.Helper()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	finish := r.background(func() error {
		err := call(ctx)
		if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, store.ErrEmpty) {
			return nil
		}
		return fmt.Errorf("%s, when its context ended: %w", name, err)
	})
	time.Sleep(50 * time.Millisecond)
	cancel()
	finish()
}

// A Put that was given up may be stored or not, and can be repeated.
func testStalledPut(r *rig) {
	mails := letters(here, 3)
	r.keep(mails[0])
	resume := r.stall()
	for _, mail := range mails {
		r.canceledSoon("Put", func(ctx context.Context) error {
			_, err := r.Put(ctx, mail, store.Limits{})
			return err
		})
	}
	resume()
	for _, mail := range mails {
		r.put(mail)
	}
	r.hasEach(here, mails)
	require.Len(r, r.all(here), len(mails))
}

func testStalledCalls(r *rig) {
	r.keep(letter(here, 0))
	resume := r.stall()
	for _, call := range calls {
		r.canceledSoon(call.name, func(ctx context.Context) error { return call.do(ctx, r.Store) })
	}
	if notes, ok := r.Store.(store.Notes); ok {
		r.canceledSoon("SetNotes", func(ctx context.Context) error {
			return notes.SetNotes(ctx, []store.Note{{Key: "a", Value: []byte("b")}})
		})
	}
	resume()
}

// Calls that wait without an end of their context are done when they can be.
func testStalledGoesOn(r *rig) {
	resume := r.stall()
	mails := letters(here, 20)
	finish := r.launch(len(mails), func(i int) error {
		_, err := r.Put(r.Context(), mails[i], store.Limits{})
		return err
	})
	settle()
	resume()
	finish()
	r.hasEach(here, mails)
	require.Len(r, r.all(here), len(mails))
}
