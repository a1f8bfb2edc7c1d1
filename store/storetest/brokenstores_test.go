package storetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// acksAny takes any ID for a position.
type acksAny struct{ store.Store }

func (s acksAny) Ack(ctx context.Context, to spec.ServerName, id int64) (int, error) {
	entries, err := readAll(ctx, s.Store, to)
	for _, entry := range slices.Backward(entries) {
		if entry.ID <= id {
			return s.Store.Ack(ctx, to, entry.ID)
		}
	}
	return 0, err
}

// acksOne doesn't acknowledge cumulatively.
type acksOne struct{ store.Store }

func (s acksOne) Ack(ctx context.Context, to spec.ServerName, id int64) (int, error) {
	entries, err := readAll(ctx, s.Store, to)
	if err != nil || len(entries) == 0 || entries[0].ID != id {
		return 0, err
	}
	return s.Store.Ack(ctx, to, id)
}

// missesPuts looks for mail first and begins to wait then.
type missesPuts struct{ store.Store }

func (s missesPuts) Wait(ctx context.Context, to spec.ServerName, after int64) error {
	if _, err := s.Next(ctx, to, after, 1, 0); !errors.Is(err, store.ErrEmpty) {
		return err
	}
	return s.Store.Wait(ctx, to, store.MaxID)
}

// neverWaits leaves the waiting to the caller.
type neverWaits struct{ store.Store }

func (s neverWaits) Wait(ctx context.Context, to spec.ServerName, after int64) error {
	if _, err := s.Next(ctx, to, after, 1, 0); err != nil && !errors.Is(err, store.ErrEmpty) {
		return err
	}
	return ctx.Err()
}

type sleepsThroughClose struct{ store.Store }

func (s sleepsThroughClose) Wait(ctx context.Context, to spec.ServerName, after int64) error {
	err := s.Store.Wait(ctx, to, after)
	if errors.Is(err, store.ErrClosed) {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

// overshoots checks the limits first and stores then.
type overshoots struct{ store.Store }

func (s overshoots) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	box, err := s.Usage(ctx, mail.Destination)
	if err != nil {
		return false, err
	}
	all, err := s.Usage(ctx, "")
	if err != nil {
		return false, err
	}
	if limits.Entries > 0 && box.Entries >= limits.Entries || limits.StoreBytes > 0 && all.Bytes+mail.Size() > limits.StoreBytes {
		return false, store.ErrFull
	}
	limits.Entries, limits.StoreBytes = 0, 0
	time.Sleep(100 * time.Microsecond)
	return s.Store.Put(ctx, mail, limits)
}

// forgetful stores all copies: it makes each digest another one.
type forgetful struct{ store.Store }

func newForgetful(s store.Store) store.Store { return forgetful{s} }

// forgetfulPuts counts them, forgetfulDigests has the put digest by the stored
// one.
var (
	forgetfulPuts    atomic.Int64
	forgetfulDigests sync.Map
)

func (s forgetful) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	changed := store.Digest(sha256.Sum256(fmt.Append(nil, forgetfulPuts.Add(1))))
	forgetfulDigests.Store(changed, mail.Digest)
	mail.Digest = changed
	return s.Store.Put(ctx, mail, limits)
}

func (s forgetful) Next(ctx context.Context, to spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]store.Entry, error) {
	entries, err := s.Store.Next(ctx, to, after, maxEntries, maxBytes)
	for i := range entries {
		digest, _ := forgetfulDigests.Load(entries[i].Digest)
		entries[i].Digest = digest.(store.Digest)
	}
	return entries, err
}

// late doesn't show the entry of a Put until another Put of the same
// destination has returned, as a database does whose transactions commit in
// another order than that of their IDs.
type late struct {
	store.Store
	mu     sync.Mutex
	puts   map[spec.ServerName]int
	hidden map[spec.ServerName]int64
}

func (s *late) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.puts == nil {
		s.puts, s.hidden = make(map[spec.ServerName]int), make(map[spec.ServerName]int64)
	}
	to := mail.Destination
	stored, err := s.Store.Put(ctx, mail, limits)
	if !stored {
		return stored, err
	}
	s.puts[to]++
	switch s.puts[to] % 4 {
	case 1:
		entries, _ := readAll(ctx, s.Store, to)
		s.hidden[to] = entries[len(entries)-1].ID
	case 3:
		delete(s.hidden, to)
	}
	return stored, err
}

func (s *late) Next(ctx context.Context, to spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]store.Entry, error) {
	entries, err := s.Store.Next(ctx, to, after, maxEntries+1, maxBytes)
	s.mu.Lock()
	defer s.mu.Unlock()
	entries = slices.DeleteFunc(entries, func(entry store.Entry) bool { return entry.ID == s.hidden[to] })
	if len(entries) == 0 && err == nil {
		return nil, store.ErrEmpty
	}
	return entries[:min(maxEntries, len(entries))], err
}

type ignoresMaxBytes struct{ store.Store }

func (s ignoresMaxBytes) Next(ctx context.Context, to spec.ServerName, after int64, maxEntries int, _ int64) ([]store.Entry, error) {
	return s.Store.Next(ctx, to, after, maxEntries, plenty)
}

type noErrEmpty struct{ store.Store }

func (s noErrEmpty) Next(ctx context.Context, to spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]store.Entry, error) {
	entries, err := s.Store.Next(ctx, to, after, maxEntries, maxBytes)
	if errors.Is(err, store.ErrEmpty) {
		return nil, nil
	}
	return entries, err
}

type neverExpires struct{ store.Store }

func (s neverExpires) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	mail.Lifetime = 0
	return s.Store.Put(ctx, mail, limits)
}

// halfBlind keeps all mail in one half.
type halfBlind struct{ store.Store }

func (s halfBlind) name(of spec.ServerName) spec.ServerName {
	return spec.ServerName(strings.ReplaceAll(string(of), "~", ""))
}

func (s halfBlind) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	mail.Destination = s.name(mail.Destination)
	return s.Store.Put(ctx, mail, limits)
}

func (s halfBlind) Next(ctx context.Context, to spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]store.Entry, error) {
	entries, err := s.Store.Next(ctx, s.name(to), after, maxEntries, maxBytes)
	for i := range entries {
		entries[i].Destination = to
	}
	return entries, err
}

func (s halfBlind) Ack(ctx context.Context, to spec.ServerName, id int64) (int, error) {
	return s.Store.Ack(ctx, s.name(to), id)
}

func (s halfBlind) Usage(ctx context.Context, of spec.ServerName) (store.Usage, error) {
	return s.Store.Usage(ctx, s.name(of))
}

// refreshes lets a lifetime begin anew when mail is read.
type refreshes struct{ store.Store }

func (s refreshes) Next(ctx context.Context, to spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]store.Entry, error) {
	entries, err := s.Store.Next(ctx, to, after, maxEntries, maxBytes)
	for i := range entries {
		if entries[i].Lifetime > 0 {
			entries[i].Lifetime = entries[i].Lifetime.Round(time.Minute)
		}
	}
	return entries, err
}

// sortsByLocale doesn't tell upper from lower case when it sorts.
type sortsByLocale struct{ store.Store }

func (s sortsByLocale) Destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	page, err := s.Store.Destinations(ctx, after, limit)
	slices.SortFunc(page, func(a, b spec.ServerName) int {
		return strings.Compare(strings.ToLower(string(a)), strings.ToLower(string(b)))
	})
	return page, err
}

// mixesUpKeys has keys in which the end of a part may be the beginning of the
// next.
type mixesUpKeys struct{ store.Store }

func (s mixesUpKeys) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	key := fmt.Sprint(mail.Destination, mail.Origin, mail.TransactionID)
	mail.Destination, mail.Origin, mail.TransactionID = "all", "", gomatrixserverlib.TransactionID(key)
	return s.Store.Put(ctx, mail, limits)
}

// showsDamage returns damaged entries.
type showsDamage struct{ *handle }

func (s showsDamage) Next(ctx context.Context, to spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]store.Entry, error) {
	return s.now().Next(ctx, to, after, maxEntries, maxBytes)
}

// descends returns a page from its end.
type descends struct{ store.Store }

func (s descends) Next(ctx context.Context, to spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]store.Entry, error) {
	entries, err := s.Store.Next(ctx, to, after, maxEntries, maxBytes)
	slices.Reverse(entries)
	return entries, err
}

// ignoresContext looks at the context once, at the beginning.
type ignoresContext struct{ store.Store }

func (s ignoresContext) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	return s.Store.Put(context.WithoutCancel(ctx), mail, limits)
}

// neverSyncs loses mail at a power cut.
type neverSyncs struct {
	store.Store
	shelf *shelf
}

func (s neverSyncs) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	s.shelf.mu.Lock()
	if len(s.shelf.lying) == 10 { // the kernel writes it some time
		clear(s.shelf.lying)
	}
	s.shelf.lying[mail.Digest] = true
	s.shelf.mu.Unlock()
	return s.Store.Put(ctx, mail, limits)
}

// takesAny finds a name where there is none.
type takesAny struct{ store.Store }

func (s takesAny) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	if mail.Destination == "" {
		mail.Destination = "nobody"
	}
	return s.Store.Put(ctx, mail, limits)
}

// putsBackwards mixes up the order of a batch.
type putsBackwards struct{ store.Store }

func (s putsBackwards) PutAll(ctx context.Context, mails []store.Mail) error {
	for _, mail := range slices.Backward(mails) {
		if _, err := s.Put(ctx, mail, store.Limits{}); err != nil {
			return err
		}
	}
	return nil
}
