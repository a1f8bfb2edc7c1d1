package client

import (
	"context"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// SendToRelays tries all relays of the destination at once that aren't to be
// left alone for now, and returns nil as soon as one has taken the transaction.
// If none has, or there is none, the error is a *SendError, which says when to
// try again; or it is the context's.
func (s *Sender) SendToRelays(ctx context.Context, t Transaction) ([]Attempt, error) {
	relays := s.relaysFor(t)
	attempts := make([]Attempt, len(relays))
	race := &race{done: make(chan finish, len(relays))}
	race.ctx, race.cancel = context.WithCancel(s.stop)
	started := 0
	for i, relay := range relays {
		attempts[i].Server = relay
		if s.relayWait(relay, t.Destination) > 0 {
			continue
		}
		attempts[i].Verdict = Pending
		started++
		s.attempts.Go(func() { race.done <- finish{i, s.tryRelay(race.ctx, relay, t)} })
	}
	for range started {
		select {
		case f := <-race.done:
			attempts[f.index] = f.attempt
			if f.attempt.Verdict == Delivered {
				s.letRun(race, attempts)
				return attempts, nil
			}
		case <-ctx.Done():
			race.cancel()
			return attempts, ctx.Err()
		}
	}
	race.cancel()
	return attempts, s.sendError(Outcome{Destination: Attempt{Server: t.Destination}, Relays: attempts})
}

// relaysOf returns the relays of a destination that aren't us.
func (s *Sender) relaysOf(destination spec.ServerName) []spec.ServerName {
	self := s.config.Caller.config.Identity.ServerName
	return slices.DeleteFunc(s.config.Peers.Relays(destination), func(relay spec.ServerName) bool { return relay == self })
}

// relaysFor returns the relays that a transaction may be left at: none at all if
// it was passed on to us.
func (s *Sender) relaysFor(t Transaction) []spec.ServerName {
	if s.wasPassedOn(t) {
		return nil
	}
	s.book.want(t.Destination)
	return slices.DeleteFunc(s.relaysOf(t.Destination), func(relay spec.ServerName) bool {
		return t.Proof != nil && s.proofless.wait(relay) > 0
	})
}

// wasPassedOn reports whether another relay has passed a transaction on to us.
// It goes to its destination only, or it could go round in circles.
func (s *Sender) wasPassedOn(t Transaction) bool {
	return t.Proof != nil && t.Proof.Relay != s.config.Caller.config.Identity.ServerName
}

// A race is the attempts at all relays for one transaction.
type race struct {
	ctx    context.Context
	cancel context.CancelFunc
	done   chan finish
}

type finish struct {
	index   int
	attempt Attempt
}

// letRun lets the attempts that are pending go on in the background, as far as
// there is room, and ends them otherwise.
func (s *Sender) letRun(r *race, attempts []Attempt) {
	pending := 0
	for _, a := range attempts {
		if a.Verdict == Pending {
			pending++
		}
	}
	if pending == 0 {
		r.cancel()
		return
	}
	select {
	case s.background <- struct{}{}:
	default:
		r.cancel()
		return
	}
	s.attempts.Go(func() {
		defer func() { <-s.background }()
		defer r.cancel()
		for range pending {
			<-r.done
		}
	})
}

// leaveAt tries one relay, unless that is to be left alone for now.
func (s *Sender) leaveAt(ctx context.Context, relay spec.ServerName, t Transaction) Attempt {
	wait := s.relayWait(relay, t.Destination)
	if t.Proof != nil {
		wait = max(wait, s.proofless.wait(relay))
	}
	if wait > 0 {
		return Attempt{Server: relay, RetryAfter: wait}
	}
	attempt := s.tryRelay(ctx, relay, t)
	attempt.RetryAfter = max(attempt.RetryAfter, s.relayWait(relay, t.Destination))
	return attempt
}

func (s *Sender) tryRelay(ctx context.Context, relay spec.ServerName, t Transaction) Attempt {
	limited, cancel := context.WithTimeout(ctx, s.config.RelayTimeout)
	defer cancel()
	attempt := judge(relay, s.config.Caller.Send(limited, relay, t))
	if ctx.Err() != nil || attempt.isOwn() { // which says nothing about the relay
		return attempt
	}
	switch attempt.Verdict {
	case NoUse:
		if !s.noteProofless(attempt) { // for other mail it is as good as any
			s.pairs.failed(pair{relay, t.Destination}, attempt.RetryAfter)
		}
	case Later, Unreachable:
		s.relays.failed(relay, attempt.RetryAfter)
	case Doubtful: // others may pass
	default:
		s.relays.succeeded(relay)
		s.pairs.succeeded(pair{relay, t.Destination})
	}
	return attempt
}

// relayWait is how long a relay isn't to be tried for a destination.
func (s *Sender) relayWait(relay, destination spec.ServerName) (wait time.Duration) {
	return max(s.relays.wait(relay), s.pairs.wait(pair{relay, destination}))
}
