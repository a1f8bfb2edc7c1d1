package client_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

var errFault = errors.New("the disk")

// A faulty store has some of its calls fail, before or after they do their work.
type faulty struct {
	notedStore
	only    string       // the call that fails; empty: all
	percent atomic.Int32 // how often
}

func newFaulty(s notedStore, percent int32, only string) *faulty {
	f := &faulty{notedStore: s, only: only}
	f.percent.Store(percent)
	return f
}

func (f *faulty) do(call string, work func() error) error {
	if f.fails(call) {
		return errFault
	}
	if err := work(); err != nil || !f.fails(call) {
		return err
	}
	return errFault
}

func (f *faulty) fails(call string) bool {
	return (f.only == "" || f.only == call) && rand.Int32N(100) < f.percent.Load()
}

func (f *faulty) Put(ctx context.Context, m store.Mail, l store.Limits) (stored bool, err error) {
	err = f.do("Put", func() (err error) {
		stored, err = f.notedStore.Put(ctx, m, l)
		return err
	})
	return stored && err == nil, err
}

func (f *faulty) Next(ctx context.Context, d spec.ServerName, after int64, n int, bytes int64) (entries []store.Entry, err error) {
	err = f.do("Next", func() (err error) {
		entries, err = f.notedStore.Next(ctx, d, after, n, bytes)
		return err
	})
	return entries, err
}

func (f *faulty) Ack(ctx context.Context, d spec.ServerName, id int64) (removed int, err error) {
	err = f.do("Ack", func() (err error) {
		removed, err = f.notedStore.Ack(ctx, d, id)
		return err
	})
	return removed, err
}

func (f *faulty) Usage(ctx context.Context, d spec.ServerName) (usage store.Usage, err error) {
	err = f.do("Usage", func() (err error) {
		usage, err = f.notedStore.Usage(ctx, d)
		return err
	})
	return usage, err
}

func (f *faulty) SetNotes(ctx context.Context, notes []store.Note) error {
	return f.do("SetNotes", func() error { return f.notedStore.SetNotes(ctx, notes) })
}
