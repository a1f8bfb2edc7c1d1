package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// A crowd uses a store from many goroutines. Nobody can say which mail one of them
// should see, but in the end every mail that was stored must have been read,
// once and in order.
type crowd struct {
	*rig
	writersDone atomic.Bool

	mu     sync.Mutex
	stored []store.Mail
}

// last is the mail that ends a mailbox.
const last = 1 << 30

func testModelAtOnce(r *rig, seed uint64) {
	const writers = 4
	c := &crowd{rig: r}
	followers := make([]*follower, len(modelDestinations))
	for i, to := range modelDestinations {
		followers[i] = &follower{store: r.Store, destination: to, acks: i > 0}
	}
	reading := r.launch(len(followers), func(i int) error {
		return followers[i].read(r.Context(), func(seen []store.Entry) bool {
			return len(seen) > 0 && seen[len(seen)-1].TransactionID == letter(modelDestinations[i], last).TransactionID
		})
	})
	disturbing := r.launch(2, func(i int) error { return c.disturb(rand.New(rand.NewPCG(seed, uint64(100+i)))) })

	var written [writers][]store.Mail
	r.together(writers, func(i int) (err error) {
		written[i], err = c.write(rand.New(rand.NewPCG(seed, uint64(i))), i)
		return err
	})
	c.writersDone.Store(true)
	disturbing()
	for _, to := range modelDestinations {
		r.keep(letter(to, last))
	}
	reading()
	for _, f := range followers {
		want := [][]store.Mail{{letter(f.destination, last)}}
		for i := range written {
			want = append(want, forDestination(f.destination, written[i]))
		}
		require.NoError(r, f.sawEach(want...), "reader of %s", f.destination)
		if f.acks {
			require.Equal(r, len(f.seen), f.removed)
			r.empty(f.destination)
		} else {
			require.Equal(r, ids(f.seen), ids(r.all(f.destination)))
		}
	}
}

func forDestination(to spec.ServerName, mails []store.Mail) []store.Mail {
	var found []store.Mail
	for _, mail := range mails {
		if mail.Destination == to {
			found = append(found, mail)
		}
	}
	return found
}

// write puts mail and copies, and returns the mail that was stored.
func (c *crowd) write(dice *rand.Rand, writer int) (stored []store.Mail, err error) {
	for n := range fewer(60) {
		if dice.IntN(4) == 0 {
			if err := c.putCopy(dice); err != nil {
				return stored, err
			}
			continue
		}
		mail := letter(modelDestinations[dice.IntN(len(modelDestinations))], 1000*writer+n)
		limits := store.Limits{Entries: dice.Int64N(30)}
		isNew, err := c.Put(c.Context(), mail, limits)
		if errors.Is(err, store.ErrFull) {
			continue
		}
		if err != nil {
			return stored, err
		}
		if !isNew {
			return stored, fmt.Errorf("new mail %q was taken for a copy", mail.TransactionID)
		}
		stored = append(stored, mail)
		c.mu.Lock()
		c.stored = append(c.stored, mail)
		c.mu.Unlock()
	}
	return stored, nil
}

func (c *crowd) putCopy(dice *rand.Rand) error {
	c.mu.Lock()
	if len(c.stored) == 0 {
		c.mu.Unlock()
		return nil
	}
	mail := c.stored[dice.IntN(len(c.stored))]
	c.mu.Unlock()
	stored, err := c.Put(c.Context(), mail, store.Limits{Entries: 1})
	if stored {
		return fmt.Errorf("a copy of %q was stored", mail.TransactionID)
	}
	return err
}

// disturb makes calls that must change nothing.
func (c *crowd) disturb(dice *rand.Rand) error {
	for !c.writersDone.Load() {
		to := modelDestinations[dice.IntN(len(modelDestinations))]
		removed, err := c.Ack(c.Context(), to, []int64{-1, 0, 1 << 40, store.MaxID}[dice.IntN(4)])
		if err != nil || removed != 0 {
			return fmt.Errorf("ack of a made-up ID: removed %d, %w", removed, err)
		}
		usage, err := c.Usage(c.Context(), to)
		if err != nil || usage.Entries < 0 || usage.Bytes < 0 || usage.SetAside != 0 {
			return fmt.Errorf("usage %+v, %w", usage, err)
		}
		if _, err := c.Destinations(c.Context(), to, 2); err != nil {
			return err
		}
		if err := waitShortly(c.Context(), c.Store, to); err != nil {
			return err
		}
	}
	return nil
}

// waitShortly gives up a Wait before or while it begins.
func waitShortly(ctx context.Context, s store.Store, to spec.ServerName) error {
	ctx, cancel := context.WithTimeout(ctx, time.Nanosecond)
	defer cancel()
	if err := s.Wait(ctx, to, store.MaxID); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}
