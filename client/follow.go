package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// Run fetches until ctx ends, and returns its error: from each relay at once,
// then whenever there is mail, and by polling where a relay doesn't hold its
// answers. Online has it ask all of them at once. A relay that Peers gets is
// asked at once, and one that Peers loses no more.
func (r *Receiver) Run(ctx context.Context) error {
	return followRelays(ctx, r.config.Peers, r.self, r.follow)
}

// followRelays runs follow for each relay of a server, for as long as it is one, until
// ctx ends, and returns its error.
func followRelays(ctx context.Context, peers *Peers, of spec.ServerName, follow func(context.Context, spec.ServerName)) error {
	var all sync.WaitGroup
	defer all.Wait()
	changed := make(chan struct{}, 1)
	defer peers.watch(func(server spec.ServerName) {
		if server != of {
			return
		}
		select {
		case changed <- struct{}{}:
		default: // it will be looked at anyway
		}
	})()
	following := make(map[spec.ServerName]context.CancelFunc)
	for {
		followOnly(ctx, peers.Relays(of), following, func(ctx context.Context, relay spec.ServerName) {
			all.Go(func() { follow(ctx, relay) })
		})
		select {
		case <-changed:
		case <-ctx.Done():
			for _, cancel := range following {
				cancel()
			}
			return ctx.Err()
		}
	}
}

// followOnly begins to follow those relays, and ends it for others.
func followOnly(ctx context.Context, relays []spec.ServerName, following map[spec.ServerName]context.CancelFunc, begin func(context.Context, spec.ServerName)) {
	wanted := make(map[spec.ServerName]bool)
	for _, relay := range relays {
		wanted[relay] = true
		if following[relay] == nil {
			own, cancel := context.WithCancel(ctx)
			following[relay] = cancel
			begin(own, relay)
		}
	}
	for relay, cancel := range following {
		if !wanted[relay] {
			cancel()
			delete(following, relay)
		}
	}
}

// follow fetches from one relay until ctx ends.
func (r *Receiver) follow(ctx context.Context, relay spec.ServerName) {
	failures, length := 0, r.holdLength()
	var held *wire.Answer
	for ctx.Err() == nil {
		woken := r.woken()
		d := r.drain(ctx, relay, held)
		if d.Err == nil && d.stale {
			d.Err = fmt.Errorf("client: %s answers entry %d again", relay, held.EntryID)
		}
		if d.Err == nil && held != nil {
			failures = 0 // it holds its answers, and gives the mail that it has
		}
		held = nil
		isOver := false // an answer was held, and receipts are still owed
		if d.Err == nil && d.batches && r.config.Wait > 0 {
			asked := time.Now()
			owes := d.giving.owes()
			if held, d.Err = r.await(ctx, relay, woken, &length, owes); held != nil {
				continue
			}
			wasHeld := time.Since(asked) >= r.leastHeld()
			isOver = owes && wasHeld
			d.asked = retryAfter(d.Err)
			if wasHeld {
				failures = 0 // an answer that is held may be ended by a proxy
			}
		}
		wait := r.config.PollInterval - r.config.PollInterval/4 + rand.N(r.config.PollInterval/2+1)
		switch {
		case d.Err == nil && isOver:
			wait, failures = 0, 0
		case d.Err == nil:
			failures = 0
		case d.pause > 0:
			wait = d.pause
		default:
			failures++
			backoff := r.config.Backoff.after(failures, d.asked)
			if !isHeld(d.Err) || backoff < wait { // else the relay did its part
				wait = backoff
			}
		}
		if d.Err != nil {
			r.config.Caller.contacts.note(ctx, relay, d.Err)
			r.config.Logger.Debug("client: a relay failed", "relay", relay, "error", d.Err, "wait", wait)
		}
		select {
		case <-woken: // over another network, perhaps
			length = r.holdLength()
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// leastWait is for relays that hold answers for less than they are asked to; one
// that holds them for less than half of it is polled.
const leastWait = 10 * time.Second

func (r *Receiver) leastHeld() time.Duration { return min(r.config.Wait, leastWait) / 2 }

// await has a relay hold its answers until there is mail, which it returns. It
// returns nil when the node comes online, since its connections may be dead,
// when the relay doesn't hold an answer, and after the first one if it is to be once.
func (r *Receiver) await(ctx context.Context, relay spec.ServerName, woken <-chan struct{}, length *holdLength, once bool) (*wire.Answer, error) {
	ctx, cancel := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel()
	watcher.Go(func() {
		select {
		case <-woken:
			cancel()
		case <-ctx.Done():
		}
	})
	for {
		r.calendar.look()
		start := time.Now()
		answer, err := r.config.Caller.Ask(ctx, relay, 0, wire.Query{
			Limit: r.config.Caller.batch(relay, firstLimit), Timeout: length.wait, List: r.looksFirst(),
		})
		switch {
		case ctx.Err() != nil:
			return nil, nil
		case err != nil:
			length.broke(time.Since(start))
			return nil, err
		case answer.EntriesQueued:
			return &answer, nil
		case once, time.Since(start) < r.leastHeld():
			return nil, nil
		}
	}
}

// retryAfter is when a server wants to be asked again, zero if it didn't say.
func retryAfter(err error) time.Duration {
	var e *wire.Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}
