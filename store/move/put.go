package move

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// A Put is held while its mailbox is moved more slowly than it is filled: for
// holdTime at most at first, and for mostHoldTime when that goes on.
const (
	holdTime     = time.Second
	mostHoldTime = 20 * time.Second // senders wait for 30 seconds and more
)

// Put implements store.Store. See the package comment on where it keeps the
// mail, on copies and on limits.
func (s *Store) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	if s.forgotten.Load() {
		return s.to.Put(ctx, mail, limits)
	}
	if !s.detours.over.Load() {
		detour, err := s.detour(ctx, mail.Destination)
		if err != nil {
			return false, err
		}
		if detour {
			defer s.detours.end(mail.Destination)
			return s.putBeside(ctx, s.from, s.to, mail, limits)
		}
	}
	known, err := s.remembers(ctx, mail)
	if err != nil {
		return false, err
	}
	if known {
		return false, s.moveLate(ctx, mail.Destination)
	}
	if s.detours.over.Load() {
		return s.to.Put(ctx, mail, limits)
	}
	return s.putBeside(ctx, s.to, s.from, mail, limits)
}

// detour reports whether new mail must go to the old store to stay behind mail that
// is there, or is on its way there, and has it counted as on its way then. Once
// it says no, it does so for that destination ever after, which is why only one
// at a time may look.
func (s *Store) detour(ctx context.Context, destination spec.ServerName) (bool, error) {
	if err := s.holds.wait(ctx, destination); err != nil {
		return false, err
	}
	leave, err := s.looks.enter(ctx, destination)
	if err != nil {
		return false, err
	}
	defer leave()
	waiting, err := s.isWaiting(ctx, destination)
	if err != nil {
		return false, err
	}
	return s.detours.begin(destination, waiting), nil
}

// isWaiting reports whether the old store has mail of destination. Mail that
// has expired there may be counted: then new mail makes a detour in vain.
func (s *Store) isWaiting(ctx context.Context, destination spec.ServerName) (bool, error) {
	usage, err := s.from.Usage(ctx, destination)
	return usage.Entries > 0, err
}

// remembers reports whether the old store knows mail. When that isn't needed
// for anything else any more, its failures are no reason to refuse mail.
func (s *Store) remembers(ctx context.Context, mail store.Mail) (bool, error) {
	over := s.detours.over.Load()
	known, err := isKnown(ctx, s.from, mail)
	if err == nil || !over || ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
		return known, err
	}
	s.warnOnce.Do(func() {
		s.options.Logger.Warn("move: the old store fails, so copies of mail that was fetched before the move may be taken as new", "error", err)
	})
	return false, nil
}

// moveLate moves mail that a Put that had failed, or was given up, has stored in the
// old store after all, maybe when the move had ended. Its repetition is taken for
// a copy, so that it must not stay there.
func (s *Store) moveLate(ctx context.Context, destination spec.ServerName) error {
	for {
		waiting, err := s.isWaiting(ctx, destination)
		if err != nil || !waiting {
			return err
		}
		_, err = s.moveChunk(ctx, destination)
		if errors.Is(err, store.ErrEmpty) { // the mail that was counted has expired
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// isKnown reports whether a store has, or remembers, mail: it recognises a copy
// before it looks at a limit, and nothing else keeps within this one.
func isKnown(ctx context.Context, s store.Store, mail store.Mail) (bool, error) {
	mail.Body, mail.Proof = []byte("{}"), nil
	stored, err := s.Put(ctx, mail, store.Limits{Bytes: 1})
	switch {
	case errors.Is(err, store.ErrFull):
		return false, nil
	case stored:
		return false, errors.New("move: the store keeps no limits")
	}
	return err == nil, err
}

// putBeside puts mail into one store and counts the mail in the other.
func (s *Store) putBeside(ctx context.Context, into, other store.Store, mail store.Mail, limits store.Limits) (bool, error) {
	fits, err := lower(ctx, &limits, other, mail.Destination)
	if err != nil {
		return false, err
	}
	if fits {
		return into.Put(ctx, mail, limits)
	}
	if known, err := isKnown(ctx, into, mail); known || err != nil {
		return false, err
	}
	return false, fmt.Errorf("move: mail for %s: %w", mail.Destination, store.ErrFull)
}

// lower takes off limits as much as a store holds, and reports whether that leaves
// anything.
func lower(ctx context.Context, limits *store.Limits, s store.Store, destination spec.ServerName) (fits bool, err error) {
	fits = true
	for _, l := range []struct {
		of             spec.ServerName
		entries, bytes *int64
	}{
		{destination, &limits.Entries, &limits.Bytes},
		{halfOf(destination), &limits.StoreEntries, &limits.StoreBytes},
	} {
		if *l.entries <= 0 && *l.bytes <= 0 {
			continue
		}
		usage, err := s.Usage(ctx, l.of)
		if err != nil {
			return false, err
		}
		fits = takeOff(l.entries, usage.Entries) && takeOff(l.bytes, usage.Bytes) && fits
	}
	return fits, nil
}

// halves are the names that Usage has for the halves of a store.
var halves = []spec.ServerName{"", store.PrivateHalf}

// halfOf is the half in which a destination is.
func halfOf(destination spec.ServerName) spec.ServerName {
	if store.IsPrivate(destination) {
		return store.PrivateHalf
	}
	return ""
}

// takeOff lowers one limit. Zero is none.
func takeOff(limit *int64, used int64) (fits bool) {
	if *limit <= 0 {
		return true
	}
	*limit -= used
	return *limit > 0
}

// detours counts the Puts that go to the old store, so that the move can end
// between two of them.
type detours struct {
	over atomic.Bool // there are no more

	mu    sync.Mutex
	under map[spec.ServerName]int // are on their way
	begun uint64                  // were on their way ever
}

// begin counts one, if the old store has mail of the destination, or will have.
// It reports false if not, or if there must be no more.
func (d *detours) begin(destination spec.ServerName, waiting bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over.Load() || !waiting && d.under[destination] == 0 {
		return false
	}
	if d.under == nil {
		d.under = make(map[spec.ServerName]int)
	}
	d.under[destination]++
	d.begun++
	return true
}

func (d *detours) end(destination spec.ServerName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.under[destination]--; d.under[destination] == 0 {
		delete(d.under, destination)
	}
}

// any reports whether one for that destination is on its way.
func (d *detours) any(destination spec.ServerName) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.under[destination] > 0
}

// count returns how many there were ever, and whether none is on its way.
func (d *detours) count() (begun uint64, idle bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.begun, len(d.under) == 0
}

// finish ends them, unless there were others since the count.
func (d *detours) finish(begun uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.under) > 0 || d.begun != begun {
		return false
	}
	d.over.Store(true)
	return true
}
