package move

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/sleep"
	"github.com/matrixrelay/relay/store"
)

const (
	// workers is how many destinations the mover moves at once. It leaves chunks
	// to the receivers that wait for their mail.
	workers = maxChunks / 2

	// roundPage is how many destinations the mover looks up at a time, and begins
	// with before it waits after a failure.
	roundPage = 64

	// roundPause is between two looks at all destinations, firstRetry and
	// mostRetry after a failure.
	roundPause = 250 * time.Millisecond
	shortPause = 10 * time.Millisecond // for mail that is on its way into the old store
	firstRetry = time.Second
	mostRetry  = time.Minute

	// progressEvery is how often the log says how much is left.
	progressEvery = 30 * time.Second
)

// run moves everything, and then waits until the old store has nothing left to
// remember.
func (s *Store) run(ctx context.Context) {
	log := s.options.Logger
	log.Info("move: moving all mail to the new store")
	if !s.moveEverything(ctx) {
		return
	}
	if err := s.marks.write(ctx, s.from); err != nil {
		log.Warn("move: the end of the move can't be noted in the old store", "error", err)
	}
	close(s.done)
	log.Info("move: all mail is moved; the old store is only asked for copies of mail that was fetched before", "for", s.options.Retention)
	if sleep.For(ctx, s.options.Retention) == nil {
		s.forgotten.Store(true)
		log.Info("move: the old store is not needed any more")
	}
}

// moveEverything returns true when all mail is in the new store, and false when
// ctx has ended.
func (s *Store) moveEverything(ctx context.Context) bool {
	crew := s.startCrew(ctx)
	defer crew.end()
	after, failures, well, said := spec.ServerName(""), 0, true, time.Now()
	for {
		last, err := s.movePage(ctx, crew, after)
		if after = last; err == nil && last == "" && well {
			var over bool
			if over, err = s.finish(ctx); over {
				return true
			}
		}
		pause := time.Duration(0)
		if well = well && err == nil; err != nil {
			failures++
			pause = retryAfter(failures)
			s.tell(ctx, err, pause)
		} else if last == "" {
			pause = roundPause
		}
		if last == "" {
			if well {
				failures = 0
			}
			well = true
		}
		if time.Since(said) > progressEvery {
			s.progress(ctx)
			said = time.Now()
		}
		if sleep.For(ctx, pause) != nil {
			return false
		}
	}
}

// movePage has the mail of the next destinations moved and returns the last of
// them, which is empty after all of them, when everything is done that was
// begun. It returns the errors met meanwhile. A destination that fails, or has
// so much mail that it takes long, holds up no other.
func (s *Store) movePage(ctx context.Context, c *crew, after spec.ServerName) (last spec.ServerName, err error) {
	names, err := s.page(ctx, after)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		c.busy.Add(1)
		c.todo <- name
		last = name
	}
	if last == "" {
		c.busy.Wait()
	}
	return last, c.failure()
}

// page returns the next destinations of the old store, first servers and then
// the private ones. A page that is empty is the end.
func (s *Store) page(ctx context.Context, after spec.ServerName) ([]spec.ServerName, error) {
	names, err := s.from.Destinations(ctx, after, roundPage)
	if err != nil || len(names) > 0 || store.IsPrivate(after) {
		return names, err
	}
	return s.from.Destinations(ctx, store.PrivateHalf, roundPage)
}

// A crew moves destinations, some at once.
type crew struct {
	todo    chan spec.ServerName
	busy    sync.WaitGroup // with the destinations that were given to it
	members sync.WaitGroup

	mu  sync.Mutex
	err error // one of those since failure was called
}

func (s *Store) startCrew(ctx context.Context) *crew {
	c := &crew{todo: make(chan spec.ServerName)}
	for range workers {
		c.members.Go(func() {
			for name := range c.todo {
				if err := s.moveAll(ctx, name); err != nil {
					c.mu.Lock()
					c.err = err // one of them is enough
					c.mu.Unlock()
				}
				c.busy.Done()
			}
		})
	}
	return c
}

func (c *crew) failure() (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err, c.err = c.err, nil
	return err
}

func (c *crew) end() {
	close(c.todo)
	c.members.Wait()
}

// moveAll moves the mail of a destination, with mail that comes in meanwhile.
func (s *Store) moveAll(ctx context.Context, destination spec.ServerName) error {
	usage, err := s.from.Usage(ctx, destination)
	if err != nil {
		return fmt.Errorf("move: usage of %s: %w", destination, err)
	}
	held := false
	for left := usage.Entries; ; {
		moved, err := s.moveChunk(ctx, destination)
		empty := errors.Is(err, store.ErrEmpty)
		if empty && !s.detours.any(destination) {
			return nil
		}
		if err != nil && !empty {
			return err
		}
		// As much as there was is moved, and there may be more by now.
		if left -= int64(moved); !held && (empty || left <= 0) {
			held = true
			defer s.holds.begin(destination)()
		}
		if empty && sleep.For(ctx, shortPause) != nil {
			return ctx.Err()
		}
	}
}

// finish ends the move if the old store is empty and no mail is on its way there.
func (s *Store) finish(ctx context.Context) (over bool, err error) {
	begun, idle := s.detours.count()
	if !idle {
		return false, nil
	}
	after := spec.ServerName("")
	for {
		names, err := s.page(ctx, after)
		if err != nil {
			return false, err
		}
		if len(names) == 0 {
			return s.detours.finish(begun), nil
		}
		for _, name := range names { // they are listed for expired mail, if they are empty
			if _, err := s.from.Next(ctx, name, 0, 1, 0); !errors.Is(err, store.ErrEmpty) {
				return false, err
			}
		}
		after = names[len(names)-1]
	}
}

func (s *Store) tell(ctx context.Context, err error, pause time.Duration) {
	if ctx.Err() == nil {
		s.options.Logger.Warn("move: moving mail failed and is tried again", "error", err, "after", pause)
	}
}

func (s *Store) progress(ctx context.Context) {
	var left store.Usage
	for _, half := range halves {
		usage, err := s.from.Usage(ctx, half)
		if err != nil {
			return
		}
		left.Entries += usage.Entries
		left.Bytes += usage.Bytes
	}
	s.options.Logger.Info("move: moving mail", "entries_left", left.Entries, "bytes_left", left.Bytes)
}

// retryAfter is how long to wait after that many failures in a row.
func retryAfter(failures int) time.Duration {
	wait := mostRetry
	if shift := failures - 1; shift < 16 {
		wait = min(mostRetry, firstRetry<<shift)
	}
	return wait - time.Duration(rand.Int64N(int64(wait)/2))
}
