// Package aside keeps entries that can't be read out of the way of those that
// can: the reading half of a store in rows.
package aside

import (
	"context"
	"log/slog"
	"maps"
	"sync"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// A Query has the arguments of a Next.
type Query struct {
	Destination spec.ServerName
	After       int64
	Entries     int
	Bytes       int64
}

// Damage is an entry that can't be read.
type Damage struct {
	ID  int64
	Err error
}

// A Reader reads past damaged entries. Its fields must be set before it is used.
type Reader struct {
	// Read returns the entries that can be read, and those that can't among
	// them, in the order of their IDs.
	Read func(context.Context, Query) ([]store.Entry, []Damage, error)

	// Live returns the IDs of entries without reading the rest of them.
	Live func(context.Context, Query) ([]int64, error)

	// SetAside takes an entry out of its mailbox.
	SetAside func(ctx context.Context, destination spec.ServerName, id int64) error

	// IsDamage reports whether an error of SetAside comes from the entry, so
	// that another attempt would end like this one.
	IsDamage func(error) bool

	// Name is the store's, which its lines in Log begin with.
	Name string
	Log  *slog.Logger

	mu     sync.Mutex
	passed map[int64]struct{} // entries that are being set aside, or can't be
}

// Next is store.Store's, once the query is made.
func (r *Reader) Next(ctx context.Context, q Query) ([]store.Entry, error) {
	for {
		entries, damaged, err := r.Read(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, d := range damaged {
			r.Pass(ctx, q.Destination, d)
		}
		if len(entries) > 0 {
			return entries, nil
		}
		if len(damaged) == 0 {
			return nil, store.ErrEmpty
		}
		q.After = damaged[len(damaged)-1].ID
	}
}

// Pass sets an entry aside. If even that can't be written, it is passed over for
// as long as the store is open.
func (r *Reader) Pass(ctx context.Context, destination spec.ServerName, d Damage) {
	if !r.passOver(d.ID) {
		return
	}
	log := r.Log.With("destination", destination, "entry", d.ID)
	log.Error(r.Name+": an entry can't be read and is set aside", "error", d.Err)
	err := r.SetAside(context.WithoutCancel(ctx), destination, d.ID)
	if err != nil {
		log.Error(r.Name+": setting an entry aside failed", "error", err)
	}
	if err == nil || !r.IsDamage(err) {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.passed, d.ID)
	}
}

// passOver makes sure that an entry isn't waited for, and reports whether nobody
// else has.
func (r *Reader) passOver(id int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.passed[id]; known {
		return false
	}
	if r.passed == nil {
		r.passed = make(map[int64]struct{})
	}
	r.passed[id] = struct{}{}
	return true
}

// Any returns nil if the destination has an entry after that ID, and
// store.ErrEmpty if it has none but those that are passed over.
func (r *Reader) Any(ctx context.Context, destination spec.ServerName, after int64) error {
	r.mu.Lock()
	passed := maps.Clone(r.passed)
	r.mu.Unlock()
	ids, err := r.Live(ctx, Query{Destination: destination, After: after, Entries: len(passed) + 1})
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, ok := passed[id]; !ok {
			return nil
		}
	}
	return store.ErrEmpty
}
