package move

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/store"
)

// seedVariable makes TestModel make the same choices again.
const seedVariable = "RELAY_MOVE_SEED"

var modelDestinations = []spec.ServerName{"a", store.Private("outbox", "a"), "c", "d", store.Private("outbox", "b")}

var errFlaky = errors.New("failed on purpose")

// A noter is store.Notes by another name, to embed it.
type noter interface{ store.Notes }

// flaky fails now and then, before or after it has done its work.
type flaky struct {
	store.Store
	noter
	often float64
}

func newFlaky(s store.Store, often float64) flaky { return flaky{s, s.(store.Notes), often} }

func (f flaky) fails() bool { return rand.Float64() < f.often }

func (f flaky) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	if limits.Bytes == 1 { // the question for a copy, whose failure makes one at the end of the move
		return f.Store.Put(ctx, mail, limits)
	}
	if f.fails() {
		return false, errFlaky
	}
	stored, err := f.Store.Put(ctx, mail, limits)
	if f.fails() {
		return false, errFlaky
	}
	return stored, err
}

func (f flaky) PutAll(ctx context.Context, mails []store.Mail) error {
	if f.fails() {
		return errFlaky
	}
	err := f.Store.(store.Batches).PutAll(ctx, mails)
	if f.fails() {
		return errFlaky
	}
	return err
}

func (f flaky) Next(ctx context.Context, to spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]store.Entry, error) {
	if f.fails() {
		return nil, errFlaky
	}
	return f.Store.Next(ctx, to, after, maxEntries, maxBytes)
}

func (f flaky) Ack(ctx context.Context, to spec.ServerName, id int64) (int, error) {
	if f.fails() {
		return 0, errFlaky
	}
	n, err := f.Store.Ack(ctx, to, id)
	if f.fails() {
		return 0, errFlaky
	}
	return n, err
}

// TestModel puts, repeats, reads and acknowledges at random while mail is moved
// from a full store to an empty one, which both fail at times and are closed and
// opened again, and checks that everything arrives once and in order.
func TestModel(t *testing.T) {
	seed := seeds.Of(t, seedVariable)
	for run := range 3 {
		t.Run(fmt.Sprint(run), func(t *testing.T) {
			testModel(t, rand.New(rand.NewPCG(seed, uint64(run))), []float64{0, 0.02, 0.2}[run])
		})
	}
}

// A crowd uses a store.
type crowd struct {
	store.Store
	ledger *ledger
	ended  context.Context // when nothing new is to begin
}

func testModel(t *testing.T, dice *rand.Rand, often float64) {
	dir, l := t.TempDir(), newLedger()
	old := openSQLite(t, dir, "from", time.Hour)
	fill(t, old, l)
	require.NoError(t, old.Close())
	for range 4 {
		from, to := openSQLite(t, dir, "from", time.Hour), openSQLite(t, dir, "to", time.Hour)
		s, err := Open(t.Context(), newFlaky(from, often), newFlaky(to, often), Options{Logger: quiet})
		require.NoError(t, err)
		ended, cancel := context.WithTimeout(t.Context(), time.Duration(dice.IntN(300))*time.Millisecond)
		c := &crowd{s, l, ended}
		c.use(t, dice)
		cancel()
		require.NoError(t, s.Close())
	}
	s := done(t, openSQLite(t, dir, "from", time.Hour), openSQLite(t, dir, "to", time.Hour), time.Hour).(*Store)
	c := &crowd{s, l, t.Context()}
	for _, name := range modelDestinations {
		require.NoError(t, c.drain(t.Context(), name))
	}
	<-s.Done()
	require.NoError(t, l.settled())
	for n := range l.letters {
		if one := l.some(n); one != nil {
			stored, err := s.Put(t.Context(), one.Mail, store.Limits{})
			require.NoError(t, err)
			require.False(t, stored, "%s, which was fetched", one.TransactionID)
		}
	}
	for _, half := range halves {
		usage, err := s.Usage(t.Context(), half)
		require.NoError(t, err)
		require.Zero(t, usage)
	}
	t.Logf("%d letters", len(l.letters))
	require.NoError(t, s.Close())
}

// fill puts some hundred letters into the old store, of which some are fetched
// before the move.
func fill(t *testing.T, old store.Store, l *ledger) {
	for n := range 600 {
		one := l.write(modelDestinations[n%len(modelDestinations)])
		stored, err := old.Put(t.Context(), one.Mail, store.Limits{})
		require.NoError(t, err)
		require.NoError(t, l.answer(one, stored))
	}
	for _, name := range modelDestinations[:2] {
		page, err := old.Next(t.Context(), name, 0, 20, 1<<20)
		require.NoError(t, err)
		_, err = old.Ack(t.Context(), name, page[19].ID)
		require.NoError(t, err)
		for _, e := range page {
			l.byKey[e.Digest].acked = true
		}
	}
}

// use has everybody at work until the time is over.
func (c *crowd) use(t *testing.T, dice *rand.Rand) {
	var all sync.WaitGroup
	errs := make([]error, 8+len(modelDestinations))
	for i := range 8 {
		mine := rand.New(rand.NewPCG(dice.Uint64(), 0))
		all.Go(func() { errs[i] = c.write(t.Context(), mine) })
	}
	for i, name := range modelDestinations[:4] { // the last is only filled
		mine := rand.New(rand.NewPCG(dice.Uint64(), 0))
		all.Go(func() { errs[8+i] = c.read(t.Context(), mine, name) })
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
}

func (c *crowd) write(ctx context.Context, dice *rand.Rand) error {
	for c.ended.Err() == nil {
		one := c.ledger.some(dice.IntN(1 << 30))
		if one == nil || dice.IntN(3) > 0 {
			one = c.ledger.write(modelDestinations[dice.IntN(len(modelDestinations))])
		}
		stored, err := c.Put(ctx, one.Mail, store.Limits{Entries: 1 << 20, StoreBytes: 1 << 30})
		if errors.Is(err, errFlaky) {
			continue
		}
		if err == nil {
			err = c.ledger.answer(one, stored)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// read reads a mailbox in pages and acknowledges the mail that it has read, or part of
// it, or nothing.
func (c *crowd) read(ctx context.Context, dice *rand.Rand, name spec.ServerName) error {
	after := int64(0)
	for c.ended.Err() == nil {
		page, err := c.Next(ctx, name, after, 1+dice.IntN(40), 1<<20)
		switch {
		case errors.Is(err, errFlaky):
			continue
		case errors.Is(err, store.ErrEmpty):
			if err := c.Wait(c.ended, name, after); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("wait: %w", err)
			}
			after = 0
			continue
		case err != nil:
			return err
		}
		if err := c.ledger.receive(name, page); err != nil {
			return err
		}
		after = page[dice.IntN(len(page))].ID
		if dice.IntN(3) == 0 {
			if err := c.acknowledge(ctx, name, after); err != nil {
				return err
			}
		}
	}
	return nil
}

// acknowledge repeats calls that fail, since nobody knows whether they had an effect.
func (c *crowd) acknowledge(ctx context.Context, name spec.ServerName, id int64) error {
	for {
		_, err := c.Ack(ctx, name, id)
		if err == nil {
			c.ledger.acknowledge(name, id)
		}
		if !errors.Is(err, errFlaky) {
			return err
		}
	}
}

// drain reads and acknowledges all there is.
func (c *crowd) drain(ctx context.Context, name spec.ServerName) error {
	for {
		page, err := c.Next(ctx, name, 0, 50, 1<<20)
		if errors.Is(err, store.ErrEmpty) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.ledger.receive(name, page); err != nil {
			return err
		}
		if err := c.acknowledge(ctx, name, page[len(page)-1].ID); err != nil {
			return err
		}
	}
}
