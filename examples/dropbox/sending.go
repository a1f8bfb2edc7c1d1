package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/client"
)

// A's part.

// writeToAbsent has A write while B isn't there.
func (s *story) writeToAbsent(ctx context.Context) error {
	s.b.Offline()
	s.roads.place(s.b.ServerName, deadAddress)
	s.say("\nB goes offline. A writes to it. Its outbox tries B, then all of B's relays at once.")
	s.say("Each of these has shown A the record that names it. What a relay says 200 to is on its disk:")
	for _, texts := range [][]string{
		{"Are you there?", "I'll leave this for you."},
		{"Tschüß, 日本, 🎁", "\"quotes\", \\backslashes\\ and <&> and \u2028", "…"},
	} {
		if err := s.leave(ctx, texts...); err != nil {
			return err
		}
	}
	status, err := s.a.Status(ctx)
	if err != nil {
		return err
	}
	if len(status.Destinations) != 1 || !status.Destinations[0].Offline {
		return errors.New("A doesn't count B as offline")
	}
	s.say("    B can't be reached, and counts as offline.")
	return nil
}

// leave has A write a transaction, which must come to all relays.
func (s *story) leave(ctx context.Context, texts ...string) error {
	t, err := s.a.write(ctx, s.b.ServerName, texts...)
	if err != nil {
		return err
	}
	if err := s.a.answers.await(ctx, t.TransactionID, http.StatusOK, relay1, relay2, relay3, relay4); err != nil {
		return err
	}
	return s.relayed(ctx, t)
}

// relayed waits until A's outbox says that a relay took a transaction.
func (s *story) relayed(ctx context.Context, t gomatrixserverlib.Transaction) error {
	if err := s.a.expect(ctx, t.TransactionID, client.ResultRelayed); err != nil {
		return err
	}
	takers := strings.Join(s.a.answers.takers(t.TransactionID), ", ")
	s.say("    %s (%s): 200 from %s", t.TransactionID, contents(t), takers)
	return nil
}

// loseRelays has A write while there is no relay.
func (s *story) loseRelays(ctx context.Context) error {
	s.say("")
	s.killRelay(relay1)
	s.killRelay(relay3)
	s.roads.place(relay2, deadAddress)
	s.roads.place(relay4, deadAddress)
	s.say("%s and %s can't be reached either.", relay2, relay4)
	t, err := s.a.write(ctx, s.b.ServerName, "Nobody takes this one.")
	if err != nil {
		return err
	}
	if err := s.a.answers.await(ctx, t.TransactionID, unreachable, relay1, relay2, relay3, relay4); err != nil {
		return err
	}
	s.say("    %s (%s): no relay is there; A's outbox keeps it and tries again", t.TransactionID, contents(t))
	return nil
}

func (s *story) relayIsReached(ctx context.Context) error {
	s.say("%s can be reached again.", relay2)
	s.roads.place(relay2, s.relays[relay2].address)
	return s.relayed(ctx, s.a.sent[2])
}

// relayIsBack has A use three relays, one of which isn't honest.
func (s *story) relayIsBack(ctx context.Context) error {
	if err := s.startRelay(ctx, relay1); err != nil {
		return err
	}
	s.say("%s can be reached again. %s is gone for good.", relay4, relay3)
	s.roads.place(relay4, s.villain.address)
	time.Sleep(relayBackoff.Most) // A doesn't ask a relay that failed before that
	t, err := s.a.write(ctx, s.b.ServerName, "That was all.")
	if err != nil {
		return err
	}
	if err := s.a.answers.await(ctx, t.TransactionID, http.StatusOK, relay1, relay2, relay4); err != nil {
		return err
	}
	if err := s.relayed(ctx, t); err != nil {
		return err
	}
	return s.leaveAgain(ctx)
}

// leaveAgain repeats a transaction, as a node does that isn't sure whether its
// request came through: with the same ID and another time stamp.
func (s *story) leaveAgain(ctx context.Context) error {
	again := s.a.sent[0]
	again.OriginServerTS += 1000
	made, err := client.NewTransaction(again)
	if err != nil {
		return err
	}
	s.say("    %s: A isn't sure that %s still has it, and leaves it there once more", again.TransactionID, relay1)
	return s.a.caller.Send(ctx, relay1, made)
}

// write makes a transaction and puts it into the outbox.
func (n *node) write(ctx context.Context, to spec.ServerName, texts ...string) (t gomatrixserverlib.Transaction, err error) {
	t.TransactionID = gomatrixserverlib.TransactionID(fmt.Sprintf("%s-%d", n.name, len(n.sent)+1))
	t.Origin, t.Destination, t.OriginServerTS = n.ServerName, to, spec.AsTimestamp(time.Now())
	if t.PDUs, err = n.inbox.say(n, texts...); err != nil {
		return t, err
	}
	if len(n.sent) == 1 { // the second says that the user is typing, too
		typing, err := json.Marshal(map[string]any{"room_id": n.inbox.room.id, "user_id": n.user, "typing": true})
		if err != nil {
			return t, err
		}
		t.EDUs = []gomatrixserverlib.EDU{{Type: spec.MTyping, Origin: string(n.ServerName), Content: typing}}
	}
	n.sent = append(n.sent, t)
	made, err := client.NewTransaction(t)
	if err != nil {
		return t, err
	}
	return t, n.Enqueue(ctx, made)
}

// expect waits for the outbox's next event, which must be this.
func (n *node) expect(ctx context.Context, id gomatrixserverlib.TransactionID, result client.Result) error {
	select {
	case e := <-n.told:
		if e.TransactionID != id || e.Result != result {
			err := fmt.Errorf("the outbox of %s says that %s is %s, and not that %s is %s", n.name, e.TransactionID, e.Result, id, result)
			return errors.Join(err, e.Err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s to be %s: %w", id, result, ctx.Err())
	}
}
