package jetstream

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/turns"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/upkeep"
	"github.com/matrixrelay/relay/store/internal/wake"
)

// A Store is a store.Store in a stream. Make one with Open.
type Store struct {
	options  Options
	engine   *engine
	cache    *cache
	writer   *writer
	unfollow func()
	waiting  wake.Hub
	sweeping turns.Turn // of the sweep that runs

	closing   context.Context // ends when reading has to
	stop      context.CancelFunc
	sweeper   sync.WaitGroup // and the loops that follow and tick
	stopSweep context.CancelFunc
	closeOnce sync.Once
}

var (
	_ store.Store = (*Store)(nil)
	_ store.Timed = (*Store)(nil)
)

// Open opens the stream, and makes it if there is none. It fails when ctx ends
// before the servers have answered; the store itself doesn't depend on ctx.
func Open(ctx context.Context, options Options) (*Store, error) {
	s := &Store{options: options.withDefaults(), sweeping: turns.New()}
	s.closing, s.stop = context.WithCancel(context.Background())
	if err := s.open(ctx); err != nil {
		s.release()
		return nil, fmt.Errorf("jetstream: open: %w", err)
	}
	sweeping, cancel := context.WithCancel(context.Background())
	s.stopSweep = cancel
	s.sweeper.Go(func() {
		upkeep.Loop(sweeping, s.options.SweepInterval, s.options.Logger, "jetstream", func(ctx context.Context) error {
			_, err := s.sweep(ctx)
			return err
		})
	})
	s.sweeper.Go(func() { s.refollowLoop(sweeping) })
	s.sweeper.Go(func() { s.tickLoop(sweeping) })
	s.sweeper.Go(func() { s.forgetLoop(sweeping) })
	return s, nil
}

func (s *Store) open(ctx context.Context) (err error) {
	o := s.options
	if s.engine, err = newEngine(o); err != nil {
		return err
	}
	stream, err := openStream(ctx, s.engine, o)
	if err != nil {
		return err
	}
	s.cache = newCache(subjects(o.Stream), &s.waiting)
	s.writer = newWriter(o, s.engine, s.cache)
	clock, err := s.startClock(ctx, stream.State)
	if err != nil {
		return err
	}
	s.unfollow, err = follow(ctx, s.engine, s.cache, clock, o.Logger)
	return err
}

// Ack implements store.Store. A long row of entries is removed in steps, with
// other writes in between.
func (s *Store) Ack(ctx context.Context, destination spec.ServerName, id int64) (removed int, err error) {
	return upkeep.Steps(func() (int, bool, error) {
		step := ackJob{destination: destination, id: id}
		if err := s.change(ctx, destination, step.run, 0); err != nil { // it may run yet
			return 0, false, err
		}
		return step.removed, step.more, nil
	})
}

// Next implements store.Store.
func (s *Store) Next(
	ctx context.Context, destination spec.ServerName, after int64, maxEntries int, maxBytes int64,
) (entries []store.Entry, err error) {
	q := query{destination: destination, after: max(after, 0), entries: max(maxEntries, 1), bytes: maxBytes}
	err = s.read(ctx, func(ctx context.Context) (err error) {
		entries, err = s.next(ctx, q)
		return err
	})
	return entries, err
}

// next sets entries aside that can't be read until there are none. Mail that comes
// after such an entry must not be handed out before it's certain that the entry
// is to be passed over.
func (s *Store) next(ctx context.Context, q query) ([]store.Entry, error) {
	for attempt := 0; ; attempt++ {
		q.sure = attempt%2 == 1 // by turns, since any replica, and the leader too, may be the one that has gone bad
		entries, damaged, err := s.readMail(ctx, q)
		if err != nil || len(damaged) == 0 {
			return entries, err
		}
		for _, d := range damaged {
			if err := s.setAside(ctx, q.destination, d); err != nil {
				return nil, err
			}
		}
		if err := pause(ctx, attempt); err != nil {
			return nil, err
		}
	}
}

// setAside takes an entry out of its mailbox that couldn't be read. The leader
// decides: if it was removed meanwhile, or came from a server that is behind,
// nothing happens, and it's read again.
func (s *Store) setAside(ctx context.Context, destination spec.ServerName, d damage) error {
	job := setAsideJob{destination: destination, item: d.item, why: d.err}
	if err := s.writer.do(ctx, job.run, 0); err != nil {
		return fmt.Errorf("jetstream: entry %d can't be read (%w), nor set aside: %w", d.id, d.err, err)
	}
	if job.done {
		s.options.Logger.Error("jetstream: an entry can't be read and is set aside",
			"destination", destination, "entry", d.id, "error", d.err)
	}
	return nil
}

// Wait implements store.Store.
func (s *Store) Wait(ctx context.Context, destination spec.ServerName, after int64) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	return s.waiting.Wait(ctx, destination, func() error {
		return s.read(ctx, func(ctx context.Context) error {
			return s.any(ctx, destination, max(after, 0))
		})
	})
}

// Destinations implements store.Store. It answers from the mailboxes that this process
// knows of; it learns of another process's Put a moment later.
func (s *Store) Destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	return s.cache.destinations(after, max(limit, 1)), nil
}

// Usage implements store.Store.
func (s *Store) Usage(ctx context.Context, destination spec.ServerName) (usage store.Usage, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		if destination == "" || destination == store.PrivateHalf {
			held, _ := s.cache.whole(destination)
			usage = held.usage()
			return nil
		}
		return s.view(ctx, destination, func(_ *batch, x *record[box]) error {
			usage = x.value.usage()
			return nil
		})
	})
	return usage, err
}

// StoreTime implements store.Timed. The retention is counted by the clocks of the
// servers, which count at least as much, unless somebody sets them back.
func (s *Store) StoreTime(ctx context.Context) (time.Duration, error) {
	if err := s.usable(ctx); err != nil {
		return 0, err
	}
	return time.Duration(s.cache.clock.Now()) * time.Millisecond, nil
}

func (s *Store) usable(ctx context.Context) error {
	if s.writer.queue.IsClosed() {
		return store.ErrClosed
	}
	return ctx.Err()
}

// read does something that ends with the store, too, and says so then.
func (s *Store) read(ctx context.Context, do func(context.Context) error) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	err := do(ctx)
	if err != nil && s.closing.Err() != nil {
		return store.ErrClosed
	}
	return err
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.stopSweep()
		s.sweeper.Wait()
		s.release()
	})
	return nil
}

// release gives back everything that open took, as far as it got.
func (s *Store) release() {
	if s.writer != nil {
		s.writer.queue.Close()
	}
	s.stop()
	s.waiting.Close()
	if s.unfollow != nil {
		s.unfollow()
	}
	if s.engine != nil {
		s.engine.close()
	}
}
