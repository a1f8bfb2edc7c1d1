package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/client"
)

// B's part.

// fetch has B ask all its relays at once, and again as long as mail is left: the events
// before an event may be at another relay, and mail that can't be handled stays where it is.
func (s *story) fetch(ctx context.Context) error {
	s.say("\nB comes back. It asks all its relays at once, each until its mailbox there is empty.")
	s.say("It takes only mail that is proven to be signed by its sender:")
	s.b.answers.forgetFetched()
	s.b.Online()
	if err := s.untilFetched(ctx); err != nil {
		return err
	}
	if err := s.b.inbox.compare(s.a.sent); err != nil {
		return err
	}
	s.listArrived()
	return s.checkGiven(ctx)
}

// untilFetched waits until all relays have no more mail for B, but for the one that is gone.
func (s *story) untilFetched(ctx context.Context) error {
	relays := []spec.ServerName{relay1, relay2, relay4, relay3}
	for {
		statuses, changed := s.b.answers.fetchedFrom(relays...)
		if slices.Equal(statuses, []int{http.StatusOK, http.StatusOK, http.StatusOK, unreachable}) {
			return nil
		}
		for i, status := range statuses {
			if status >= http.StatusBadRequest {
				return fmt.Errorf("%s answers B with %d", relays[i], status)
			}
		}
		select {
		case <-changed:
		case err := <-s.b.failed:
			return err
		case <-ctx.Done():
			return fmt.Errorf("waiting for B's mail: %w", ctx.Err())
		}
	}
}

func (s *story) listArrived() {
	for i, got := range s.b.inbox.all() {
		t := s.a.sent[i]
		s.say("    %s (%s) from %s: proof, hashes and signatures are A's", t.TransactionID, contents(t), got.from)
	}
}

// checkGiven compares the mail that relays gave with the mail that A has left there.
func (s *story) checkGiven(ctx context.Context) error {
	status, err := s.b.Status(ctx)
	if err != nil {
		return err
	}
	all := 0
	for _, relay := range status.Relays {
		left, gave := s.a.answers.takenBy(relay.Relay), int(relay.Fetched)
		switch relay.Relay {
		case relay1, relay2:
			if gave != left {
				return fmt.Errorf("%s took %d transactions and gave %d", relay.Relay, left, gave)
			}
			s.say("    %s had %d", relay.Relay, left)
			all += gave
		case relay3:
			s.say("    %s: %v", relay3, rootCause(relay.LastError))
		}
	}
	s.say("%d of these were copies that came through another relay, too.", all-len(s.a.sent))
	if all <= len(s.a.sent) {
		return errors.New("no transaction was at two relays")
	}
	return nil
}

// catchVillain compares the mail that B has rejected with the forgeries.
func (s *story) catchVillain(context.Context) error {
	s.say("%s is a villain's. B rejects all that it hands out:", relay4)
	for _, forged := range s.villain.forgeries() {
		select {
		case got := <-s.b.rejected:
			if got.Relay != relay4 || got.TransactionID != forged.id {
				return fmt.Errorf("B rejects %s from %s, and not %s from %s: %w", got.TransactionID, got.Relay, forged.id, relay4, got.why)
			}
			s.say("    %s: %v", forged.what, got.why)
		default: // B has asked until nothing was left
			return fmt.Errorf("B didn't notice that %s is forged: %s", forged.id, forged.what)
		}
	}
	if len(s.b.rejected) > 0 {
		return fmt.Errorf("B rejects more than %s has forged", relay4)
	}
	s.say("No proof shows that a relay held nothing back: %s has never given the real alice-4.", relay4)
	s.say("B has that because A left it at honest relays, too.")
	return nil
}

// answer has B write to A, which sees that B is back and hands over the mail that
// its outbox kept.
func (s *story) answer(ctx context.Context) error {
	s.roads.place(s.b.ServerName, s.b.address)
	t, err := s.b.write(ctx, s.a.ServerName, "I'm back.")
	if err != nil {
		return err
	}
	for _, id := range []gomatrixserverlib.TransactionID{t.TransactionID, record} {
		if err := s.b.expect(ctx, id, client.ResultDelivered); err != nil {
			return err
		}
		if err := s.a.expectArrival(ctx, arrival{id: id, handled: true}); err != nil {
			return err
		}
	}
	if err := s.a.inbox.compare(s.b.sent); err != nil {
		return err
	}
	s.say("\nB answers: A has %s (%s) from B itself, and B's record besides.", t.TransactionID, contents(t))
	return s.handOver(ctx)
}

func (s *story) handOver(ctx context.Context) error {
	s.say("So A knows that B is there. Its outbox hands over the mail that only relays took, with the same IDs:")
	for _, t := range s.a.sent {
		if err := s.b.expectArrival(ctx, arrival{id: t.TransactionID}); err != nil {
			return err
		}
		if err := s.a.expect(ctx, t.TransactionID, client.ResultDelivered); err != nil {
			return err
		}
		s.say("    %s: B knows it, says 200 and doesn't handle it again", t.TransactionID)
	}
	return s.b.inbox.compare(s.a.sent)
}
