package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/matrixrelay/relay/internal/address"
	"github.com/matrixrelay/relay/internal/sleep"
	"github.com/matrixrelay/relay/wire"
)

// How much memory, in sizes of the body, it takes to check a signature. One over the
// bytes that came takes none to speak of.
const (
	formFactor = 4  // the body, its canonical form, and a third text that is put together of both
	slowFactor = 12 // about, where it is left to fclient and to decoders
)

// The price of a check for an address, in time for each byte, if the signature turns out
// to be wrong: several times as long as the check takes, so that such checks never take
// a whole processor.
const (
	formCost = 80 * time.Nanosecond  // about 4 are the least, 15 the most that it takes
	slowCost = 800 * time.Nanosecond // 20 to 300

	// wrongFactor is how many times the price a wrong signature costs in the end, so that
	// an address has a small part of a processor for them. A right one that is being
	// checked counts once, since others of its address may begin beside it.
	wrongFactor = 4

	// lookCost is likewise the price of each entry that was looked at for receipts in vain,
	// which may be good and sent again and again. It takes 8 to 22 microseconds in SQLite.
	lookCost = 50 * time.Microsecond

	// checkCredit is how much may be owed before the next check waits, and
	// checkPatience how long it waits at most.
	checkCredit   = 250 * time.Millisecond
	checkPatience = patience
)

// checks are the checks of signatures. Those that take long are charged to the address
// that they are for: its next such checks wait until its debt for wrong ones is paid.
type checks struct{ debts addressDebts }

func newChecks() *checks { return &checks{newAddressDebts()} }

// run runs the check of a signature over the body that a share is for. While it waits
// for its turn or for somebody else's keys, the request can be cut off for others.
func (c *checks) run(ctx context.Context, s *share, body *wire.Body, keyIsKnown bool, check func(context.Context) error) error {
	if keyIsKnown && body.IsCanonical() {
		return s.cuttable(ctx, check)
	}
	return s.cuttable(ctx, func(ctx context.Context) error {
		if err := c.await(ctx, s.by.from); err != nil {
			return err
		}
		if keyIsKnown {
			return c.formed(ctx, s, body, check)
		}
		return c.slow(ctx, s, body, check)
	})
}

// formed checks a body that has to be brought into canonical form. It is paid before,
// since others of the address may begin meanwhile, and paid back.
func (c *checks) formed(ctx context.Context, s *share, body *wire.Body, check func(context.Context) error) error {
	size := time.Duration(len(body.JSON()))
	cost := size * formCost
	c.debts.add(s.by.from, cost)
	hasRoom := s.reserve(body, formFactor)
	if hasRoom && !body.HasForm() { // so it is left to fclient after all
		cost = size * slowCost
		c.debts.add(s.by.from, cost-size*formCost)
		hasRoom = s.reserve(body, slowFactor)
	}
	err := errNoMemory
	if hasRoom {
		err = check(ctx)
	}
	if err == nil || errors.Is(err, errNoMemory) {
		c.debts.add(s.by.from, -cost)
	} else {
		c.debts.add(s.by.from, cost*(wrongFactor-1))
	}
	return err
}

// errManyWrong is in the refusal of a check whose address owes too much.
var errManyWrong = errors.New("relay: many wrong signatures")

// slow leaves the check to fclient. It is paid afterwards: it may take long because
// somebody else's keys do. If the client goes away meanwhile, only a body costs that had
// to be brought into another form before.
func (c *checks) slow(ctx context.Context, s *share, body *wire.Body, check func(context.Context) error) error {
	before := s.held
	if !s.reserve(body, slowFactor) {
		return errNoMemory
	}
	if body.IsCanonical() { // then only the check takes more
		defer s.set(before, false)
	}
	err := check(ctx)
	if err != nil && (ctx.Err() == nil || !body.IsCanonical()) {
		c.debts.add(s.by.from, time.Duration(len(body.JSON()))*slowCost)
	}
	return err
}

// ofObject checks the signature of an object that a request has brought. Its error names
// the object.
func (c *checks) ofObject(ctx context.Context, q *request, object string, check func(context.Context) error) error {
	err := q.memory.cuttable(ctx, func(ctx context.Context) error {
		if err := c.await(ctx, q.memory.by.from); err != nil {
			return err
		}
		return check(ctx)
	})
	switch {
	case errors.Is(err, wire.ErrSigned):
		c.debts.add(q.memory.by.from, time.Duration(len(q.Content))*slowCost)
		return wire.Forbidden(object + " was not signed by its server")
	case errors.Is(err, wire.ErrNoKey):
		return wire.KeyUnavailable()
	}
	return err
}

// await waits until an address may have a check that takes long.
func (c *checks) await(ctx context.Context, from address.From) error {
	wait := c.debts.owed(from) - checkCredit
	if wait <= 0 {
		return nil
	}
	if wait > checkPatience {
		return fmt.Errorf("%w: %w", errManyWrong, wire.LimitExceeded("too many wrong signatures over bodies that take long to check", wholeSeconds(wait)))
	}
	return sleep.For(ctx, wait)
}

// reserve takes memory for checking a body, as many times its size, which it has until
// the share is released: a body that isn't canonical is read again after the check. A small
// body stays one, and the memory that a body gets outside of the budget does for a tiny one.
func (s *share) reserve(body *wire.Body, times int64) bool {
	size := int64(len(body.JSON()))
	if size*times <= firstRead {
		return true
	}
	s.staysSmall(times)
	return s.set(times*size, true)
}

// staysSmall has a small share be one while it holds that many times as much.
func (s *share) staysSmall(times int64) {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	if s.held <= s.most {
		s.most = max(s.most, times*small)
	}
}

// cuttable has the transfer be cut off, if that must be, while it does something.
func (s *share) cuttable(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.setCut(func() bool { cancel(); return true })
	err := do(ctx)
	if s.setCut(nil) {
		return errNoMemory
	}
	return err
}
