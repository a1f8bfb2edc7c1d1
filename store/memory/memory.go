// Package memory is a store.Store for tests: it keeps mail in the memory of
// this process.
//
// Nothing survives the process, nor Close: a Put that returned nil is lost
// with both. A relay that is to keep anybody's mail needs another store.
//
// A Store starts no goroutine, and its clock is the time since it was made, so
// it works under testing/synctest: expired mail is dropped by the next call,
// whichever that is.
package memory

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/heap"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/upkeep"
	"github.com/matrixrelay/relay/store/internal/wake"
)

// Options say how a Store works. The zero value is usable.
type Options struct {
	// Retention is how long a copy is recognised after the mail was
	// acknowledged or has expired. Default 24 hours; negative: not at all.
	Retention time.Duration

	// MaxCopies is how many transactions are remembered for that, MaxCopiesOfOrigin how
	// many of one origin. Beyond that they are forgotten earlier: see store.Store.
	// Defaults 1,000,000 and a sixteenth of MaxCopies; negative: no limit.
	MaxCopies, MaxCopiesOfOrigin int64
}

// longest is a lifetime that can be added to a time on the store's clock.
const longest = math.MaxInt64 / 2

// A Store keeps mail in memory. Make one with New.
type Store struct {
	retention time.Duration
	made      time.Time // where its clock begins
	hub       wake.Hub

	mu        sync.Mutex
	closed    bool
	lastID    int64 // one counter for all destinations
	mailboxes map[spec.ServerName]*mailbox
	names     []spec.ServerName // the keys of mailboxes, in order
	held      halves
	expiring  heap.Heap[*item] // those that have a lifetime
	copies    copies
	notes     map[string][]byte
}

var (
	_ store.Store   = (*Store)(nil)
	_ store.Batches = (*Store)(nil)
	_ store.Timed   = (*Store)(nil)
)

// New returns an empty Store.
func New(options Options) *Store {
	made := time.Now()
	return &Store{
		made:      made,
		lastID:    store.FirstID(made),
		retention: upkeep.Retention(options.Retention),
		mailboxes: make(map[spec.ServerName]*mailbox),
		copies:    newCopies(options),
		notes:     make(map[string][]byte),
	}
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	if err := mail.Check(); err != nil {
		return false, err
	}
	stored, err := s.put(ctx, mail, limits)
	if stored {
		s.hub.Notify(mail.Destination)
	}
	return stored, err
}

func (s *Store) put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	if err := s.enter(ctx); err != nil {
		return false, err
	}
	defer s.mu.Unlock()
	if s.copies.has(keyOf(&mail)) {
		return false, nil
	}
	if err := s.checkLimits(&mail, limits); err != nil {
		return false, err
	}
	s.add(mail)
	return true, nil
}

// PutAll implements store.Batches. All are stored at once.
func (s *Store) PutAll(ctx context.Context, mails []store.Mail) error {
	for _, mail := range mails {
		if err := mail.Check(); err != nil {
			return err
		}
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	for _, mail := range mails {
		if !s.copies.has(keyOf(&mail)) {
			s.add(mail)
		}
	}
	s.mu.Unlock()
	if len(mails) > 0 {
		s.hub.Notify(mails[0].Destination)
	}
	return nil
}

// Next implements store.Store.
func (s *Store) Next(ctx context.Context, destination spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]store.Entry, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	waiting := s.after(destination, after)
	if len(waiting) == 0 {
		return nil, store.ErrEmpty
	}
	n, size := 1, waiting[0].Size()
	for n < len(waiting) && n < maxEntries && size+waiting[n].Size() <= maxBytes {
		size += waiting[n].Size()
		n++
	}
	entries, now := make([]store.Entry, n), s.now()
	for i, it := range waiting[:n] {
		entries[i] = it.Entry
		if it.until > 0 {
			entries[i].Lifetime = max(it.until-now, time.Millisecond)
		}
	}
	return entries, nil
}

// Ack implements store.Store.
func (s *Store) Ack(ctx context.Context, destination spec.ServerName, id int64) (int, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	box := s.mailbox(destination)
	i, found := box.search(id)
	if !found {
		return 0, nil
	}
	now := s.now()
	for _, it := range box.items[:i+1] {
		if it.until > 0 {
			s.expiring.Remove(it)
		}
		s.release(box, it, now)
	}
	s.sweep(destination, box)
	return i + 1, nil
}

// Wait implements store.Store.
func (s *Store) Wait(ctx context.Context, destination spec.ServerName, after int64) error {
	return s.hub.Wait(ctx, destination, func() error {
		if err := s.enter(ctx); err != nil {
			return err
		}
		defer s.mu.Unlock()
		if len(s.after(destination, after)) == 0 {
			return store.ErrEmpty
		}
		return nil
	})
}

// Destinations implements store.Store.
func (s *Store) Destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	return s.page(ctx, after, limit, func(spec.ServerName) bool { return true })
}

// page returns up to limit names of mailboxes after one, in its half, of those that are
// wanted.
func (s *Store) page(ctx context.Context, after spec.ServerName, limit int, wanted func(spec.ServerName) bool) ([]spec.ServerName, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	i, found := slices.BinarySearch(s.names, after)
	if found {
		i++
	}
	page := []spec.ServerName{}
	for ; i < len(s.names) && len(page) < max(limit, 1); i++ {
		if store.IsPrivate(s.names[i]) == store.IsPrivate(after) && wanted(s.names[i]) {
			page = append(page, s.names[i])
		}
	}
	return page, nil
}

// Usage implements store.Store.
func (s *Store) Usage(ctx context.Context, destination spec.ServerName) (store.Usage, error) {
	if err := s.enter(ctx); err != nil {
		return store.Usage{}, err
	}
	defer s.mu.Unlock()
	held := s.mailbox(destination).held
	if destination == "" || destination == store.PrivateHalf {
		held = *s.held.of(destination)
	}
	return store.Usage{Entries: held.entries, Bytes: held.bytes}, nil
}

// Close implements store.Store. It forgets all mail.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mailboxes, s.names, s.expiring, s.copies, s.notes = nil, nil, nil, copies{}, nil
	s.mu.Unlock()
	s.hub.Close()
	return nil
}

// enter begins a call: it takes the lock and drops the mail that has expired,
// so that the rest of the call can do as if there were none.
// Each entry is dropped once, so this costs a call nothing beyond the price that an
// earlier Put has paid.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return store.ErrClosed
	}
	now := s.now()
	s.copies.forget(now)
	s.dropExpired(now)
	return nil
}

// StoreTime implements store.Timed.
func (s *Store) StoreTime(ctx context.Context) (time.Duration, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	return time.Duration(s.made.UnixNano()) + s.now(), nil
}

// now is the time on the store's clock. It comes from monotonic readings, so
// no one can set it.
func (s *Store) now() time.Duration { return time.Since(s.made) }

// mailbox returns the mailbox of destination, an empty one if there is none.
func (s *Store) mailbox(destination spec.ServerName) *mailbox {
	if box := s.mailboxes[destination]; box != nil {
		return box
	}
	return &mailbox{}
}

func (s *Store) checkLimits(mail *store.Mail, limits store.Limits) error {
	box, size := s.mailbox(mail.Destination), mail.Size()
	from, half := box.origins[mail.Origin], s.held.of(mail.Destination)
	for _, limit := range []struct {
		name           string
		max, used, add int64
	}{
		{"Entries", limits.Entries, box.held.entries, 1},
		{"Bytes", limits.Bytes, box.held.bytes, size},
		{"OriginEntries", limits.OriginEntries, from.entries, 1},
		{"OriginBytes", limits.OriginBytes, from.bytes, size},
		{"StoreEntries", limits.StoreEntries, half.entries, 1},
		{"StoreBytes", limits.StoreBytes, half.bytes, size},
	} {
		if limit.max > 0 && limit.used+limit.add > limit.max {
			return fmt.Errorf("%w: %s at %d of %d", store.ErrFull, limit.name, limit.used, limit.max)
		}
	}
	return nil
}

// add makes mail an entry.
func (s *Store) add(mail store.Mail) {
	// A caller that appends to a body that Next returned must not write into the
	// slice that was put.
	mail.Body, mail.Proof = slices.Clip(mail.Body), slices.Clip(mail.Proof)
	s.lastID++
	it := &item{Entry: store.Entry{ID: s.lastID, Mail: mail}}
	it.Lifetime = 0
	if mail.Lifetime > 0 {
		it.until = s.now() + min(mail.Lifetime, longest)
	}

	box := s.mailboxes[mail.Destination]
	if box == nil {
		box = &mailbox{origins: make(map[spec.ServerName]tally)}
		s.mailboxes[mail.Destination] = box
		i, _ := slices.BinarySearch(s.names, mail.Destination)
		s.names = slices.Insert(s.names, i, mail.Destination)
	}
	box.items = append(box.items, it)
	box.count(it, 1)
	s.held.count(it, 1)
	if it.until > 0 {
		s.expiring.Push(it)
	}
	s.copies.remember(keyOf(&mail))
}

// release takes an item out of all that is counted and marks it as gone. The
// mailbox still holds it, until sweep.
func (s *Store) release(box *mailbox, it *item, now time.Duration) {
	it.gone = true
	box.gone++
	box.count(it, -1)
	s.held.count(it, -1)
	s.copies.forgetAt(keyOf(&it.Mail), now+s.retention)
}

// sweep drops the items of a mailbox that are gone, and the mailbox when it is empty.
func (s *Store) sweep(destination spec.ServerName, box *mailbox) {
	box.sweep()
	if len(box.items) > 0 {
		return
	}
	delete(s.mailboxes, destination)
	if i, found := slices.BinarySearch(s.names, destination); found {
		s.names = slices.Delete(s.names, i, i+1)
	}
}

func (s *Store) dropExpired(now time.Duration) {
	// A mailbox is swept once, however much of it has expired.
	var touched map[spec.ServerName]*mailbox
	for len(s.expiring) > 0 && s.expiring[0].until <= now {
		it := s.expiring[0]
		s.expiring.Remove(it)
		box := s.mailboxes[it.Destination]
		s.release(box, it, now)
		if touched == nil {
			touched = make(map[spec.ServerName]*mailbox)
		}
		touched[it.Destination] = box
	}
	for destination, box := range touched {
		s.sweep(destination, box)
	}
}

// after returns the items of destination with an ID greater than id.
func (s *Store) after(destination spec.ServerName, id int64) []*item {
	box := s.mailbox(destination)
	i, found := box.search(id)
	if found {
		i++
	}
	return box.items[i:]
}
