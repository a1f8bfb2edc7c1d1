package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// A Wait that looks for mail first and makes itself known then, or the other
// way round with a mistake, misses the Put that comes between. The tests here
// let Puts come at every moment of a Wait that they can get at.

// testWaitPry gets at those moments at which the store asks for the state of
// the context.
func testWaitPry(r *rig) {
	const moments = 10
	for at := range int64(moments) {
		mail := letter(here, int(at))
		put := sync.OnceValue(func() error {
			_, err := r.Put(r.Context(), mail, store.Limits{})
			return err
		})
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		prying := &pryingContext{Context: ctx, at: at, do: put}
		finish := r.background(func() error { return receiveOne(prying, r.Store) })
		settle()
		require.NoError(r, put(), "if the store looks at its context less often")
		finish()
		cancel()
	}
}

// A pryingContext does something when it is asked for its state for the at-th
// time. It gives it a moment, but doesn't wait for its end: the store may be
// holding a lock.
type pryingContext struct {
	context.Context
	asked atomic.Int64
	at    int64
	do    func() error
}

func (c *pryingContext) pry() {
	if c.asked.Add(1)-1 != c.at {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.do() // the error is seen by the test, which calls it, too
	}()
	select {
	case <-done:
	case <-time.After(50 * time.Millisecond):
	}
}

func (c *pryingContext) Done() <-chan struct{} {
	c.pry()
	return c.Context.Done()
}

func (c *pryingContext) Err() error {
	c.pry()
	return c.Context.Err()
}

// receiveOne waits for an entry, though there may be one, and acknowledges it.
func receiveOne(ctx context.Context, s store.Store) error {
	for {
		if err := s.Wait(ctx, here, 0); err != nil {
			return err
		}
		entries, err := s.Next(ctx, here, 0, 1, plenty)
		if errors.Is(err, store.ErrEmpty) {
			continue
		}
		if err == nil {
			_, err = s.Ack(ctx, here, entries[0].ID)
		}
		return err
	}
}

func testWaitRace(r *rig) { waitRace(r, r.Store, r.Store) }

// waitRace puts one mail after the other into an empty mailbox, each at another
// moment of a Wait.
func waitRace(r *rig, sender, receiver store.Store) {
	const atLeast = 30
	p := pace{end: time.Now().Add(time.Duration(fewer(800)) * time.Millisecond)}
	r.together(2, func(i int) error {
		defer p.stop.Store(true)
		for n := 0; !p.stop.Load(); n++ {
			var err error
			if i == 0 {
				err = p.send(r.Context(), sender, n)
			} else {
				err = p.receive(r.Context(), receiver, n)
				p.stop.CompareAndSwap(false, n >= atLeast && time.Now().After(p.end))
			}
			if err != nil {
				return fmt.Errorf("round %d: %w", n, err)
			}
		}
		return nil
	})
}

// A pace makes a Put end while a Wait begins, on stores of any speed: it knows
// how long the last of each took and lets the other begin up to that much
// later.
type pace struct {
	end       time.Time
	stop      atomic.Bool
	begun     [2]atomic.Int64 // the rounds that the sender, the receiver has begun
	put, look atomic.Int64    // nanoseconds
}

// begin starts a round, together with the other side.
func (p *pace) begin(side, round int, latest int64) {
	p.begun[side].Add(1)
	spin(func() bool { return p.begun[1-side].Load() > int64(round) || p.stop.Load() })
	start, wait := time.Now(), time.Duration(rand.Int64N(latest+1))
	spin(func() bool { return time.Since(start) >= wait })
}

// spin waits for done and rarely yields: two goroutines that yield to each
// other all the time may share one processor, and then nothing that they do
// happens at the same moment.
func spin(done func() bool) {
	for i := 1; !done(); i++ {
		if i%1000 == 0 {
			runtime.Gosched()
		}
	}
}

func (p *pace) send(ctx context.Context, s store.Store, round int) error {
	p.begin(0, round, p.look.Load())
	if p.stop.Load() {
		return nil
	}
	start := time.Now()
	_, err := s.Put(ctx, letter(here, round), store.Limits{})
	p.put.Store(int64(time.Since(start)))
	return err
}

func (p *pace) receive(ctx context.Context, s store.Store, round int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	start := time.Now()
	if _, err := s.Next(ctx, here, 0, 1, plenty); !errors.Is(err, store.ErrEmpty) {
		return fmt.Errorf("there should be no mail: %w", err)
	}
	p.look.Store(2 * int64(time.Since(start)))
	p.begin(1, round, p.put.Load())
	return receiveOne(ctx, s)
}
