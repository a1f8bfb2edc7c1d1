package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/client"
)

// B's part.

// fetch has B ask all its relays at once, and again as long as that brings
// something: the events before an event may be at another relay, and mail that can't
// be handled stays where it is.
func (s *story) fetch(ctx context.Context) error {
	s.say("\nB comes back. It asks all its relays at once, each until its mailbox there is empty.")
	s.say("It takes only mail that is proven to be signed by its sender:")
	gave := make(map[spec.ServerName]client.Drained)
	for {
		handled, err := 0, error(nil)
		for _, d := range s.b.receiver.Sync(ctx) {
			sum := gave[d.Relay]
			gave[d.Relay] = client.Drained{
				Handled: sum.Handled + d.Handled, Copies: sum.Copies + d.Copies, Rejected: sum.Rejected + d.Rejected, Err: d.Err,
			}
			handled += d.Handled
			if d.Relay != relay3 {
				err = errors.Join(err, d.Err)
			}
		}
		if err == nil {
			break
		}
		if handled == 0 {
			return err
		}
	}
	if err := s.b.inbox.compare(s.a.sent); err != nil {
		return err
	}
	s.listArrived()
	return s.checkGiven(gave)
}

func (s *story) listArrived() {
	for i, got := range s.b.inbox.all() {
		t := s.a.sent[i]
		s.say("    %s (%s) from %s: proof, hashes and signatures are A's", t.TransactionID, contents(t), got.from)
	}
}

// checkGiven compares the mail that relays gave with the mail that A has left there.
func (s *story) checkGiven(gave map[spec.ServerName]client.Drained) error {
	for _, relay := range []spec.ServerName{relay1, relay2} {
		left, d := s.a.receipts.takenBy(relay), gave[relay]
		if d.Handled+d.Copies != left || d.Rejected != 0 {
			return fmt.Errorf("%s took %d transactions and gave %d, and %d that B rejected", relay, left, d.Handled+d.Copies, d.Rejected)
		}
		s.say("    %s had %d: %d new, %d that had come through another relay already", relay, left, d.Handled, d.Copies)
	}
	if gave[relay3].Err == nil {
		return fmt.Errorf("%s answered, although it isn't there", relay3)
	}
	s.say("    %s: %v", relay3, rootCause(gave[relay3].Err))
	if d := gave[relay4]; d.Handled+d.Copies > 0 {
		return fmt.Errorf("B took %d transactions from %s, which forges them all", d.Handled+d.Copies, relay4)
	}
	if gave[relay1].Copies+gave[relay2].Copies == 0 {
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
		default:
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
	if err := s.b.open(s.roads.place); err != nil {
		return err
	}
	t, err := s.b.write(ctx, s.a.ServerName, "I'm back.")
	if err != nil {
		return err
	}
	if err := s.b.expect(ctx, t.TransactionID, client.ResultDelivered); err != nil {
		return err
	}
	if err := s.a.expectArrival(ctx, arrival{id: t.TransactionID, handled: true}); err != nil {
		return err
	}
	if err := s.a.inbox.compare(s.b.sent); err != nil {
		return err
	}
	s.say("\nB answers: A has %s (%s) from B itself.", t.TransactionID, contents(t))
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
	if s.a.peers.Offline(s.b.ServerName) {
		return errors.New("A still counts B as offline")
	}
	return s.b.inbox.compare(s.a.sent)
}
