package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/matrix-org/gomatrix"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/client"
)

// relayName is what the relay is called; requests to it are signed for that
// name.
const relayName spec.ServerName = "relay"

// A story is everybody in it, and what has happened so far.
type story struct {
	out      io.Writer
	roads    network
	database string
	relay    *relayProcess

	a, b, c *node
	room    *room
	inbox   inbox
	sent    []gomatrixserverlib.Transaction
}

// run tells the story to out. Its error says what went wrong.
func run(ctx context.Context, out io.Writer) (err error) {
	directory, err := os.MkdirTemp("", "dropbox-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()
	s := &story{out: out, database: filepath.Join(directory, "relay.db")}
	defer func() {
		if s.relay != nil {
			s.relay.kill()
		}
	}()
	start := time.Now()
	for _, step := range []func(context.Context) error{
		s.meet, s.tryDirectly, s.leaveAtRelay, s.killRelay, s.leaveAgain, s.letStrangerTry, s.fetch, s.end,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	s.say("Everything arrived once, in order and unchanged, in %v.", time.Since(start).Round(time.Millisecond))
	return nil
}

func (s *story) say(format string, args ...any) { _, _ = fmt.Fprintf(s.out, format+"\n", args...) }

// meet makes the nodes, the room that they share and the relay.
func (s *story) meet(ctx context.Context) (err error) {
	for _, n := range []**node{&s.a, &s.b, &s.c} {
		if *n, err = newNode(&s.roads); err != nil {
			return err
		}
	}
	if s.room, err = newRoom(s.a, s.b); err != nil {
		return err
	}
	s.inbox.room = s.room.asKnownNow()
	s.say("Two nodes share a room. A node's name is its public key:")
	s.say("    A  %s", s.a.ServerName)
	s.say("    B  %s", s.b.ServerName)
	return s.startRelay(ctx)
}

func (s *story) startRelay(ctx context.Context) (err error) {
	if s.relay, err = startRelay(ctx, relayName, s.database); err != nil {
		return err
	}
	s.roads.place(relayName, s.relay.address)
	s.say("A relay is running: process %d, at %s, with its mail in a SQLite file.", s.relay.id(), s.relay.address)
	return nil
}

// tryDirectly has A send while B isn't there.
func (s *story) tryDirectly(ctx context.Context) error {
	address, err := silentAddress()
	if err != nil {
		return err
	}
	s.roads.place(s.b.ServerName, address)
	if err := s.write(); err != nil {
		return err
	}
	s.say("\nB goes offline. A has news for it, in %d transactions, and tries B itself first:", len(s.sent))
	err = s.a.sendDirectly(ctx, s.sent[0])
	if err == nil {
		return errors.New("B took a transaction although it isn't there")
	}
	s.say("    B can't be reached: %v", rootCause(err))
	return nil
}

// write makes the transactions of A.
func (s *story) write() error {
	for i, texts := range [][]string{
		{"Are you there?", "I'll leave this for you."},
		{"Tschüß, 日本, 🎁", "\"quotes\", \\backslashes\\ and <&> and \u2028", "…"},
		{"That was all."},
	} {
		pdus, err := s.room.say(s.a, texts...)
		if err != nil {
			return err
		}
		s.sent = append(s.sent, gomatrixserverlib.Transaction{
			TransactionID:  gomatrixserverlib.TransactionID(fmt.Sprintf("dropbox-%d", i+1)),
			Origin:         s.a.ServerName,
			Destination:    s.b.ServerName,
			OriginServerTS: spec.AsTimestamp(time.Now()),
			PDUs:           pdus,
		})
	}
	typing, err := json.Marshal(map[string]any{"room_id": s.room.id, "user_id": s.a.user("alice"), "typing": true})
	s.sent[1].EDUs = []gomatrixserverlib.EDU{{Type: spec.MTyping, Origin: string(s.a.ServerName), Content: typing}}
	return err
}

func (s *story) leaveAtRelay(ctx context.Context) error {
	s.say("\nA leaves its mail at the relay. What the relay says 200 to is on its disk:")
	for _, t := range s.sent {
		if err := s.leave(ctx, t); err != nil {
			return err
		}
		s.say("    %s (%s): 200", t.TransactionID, contents(t))
	}
	return nil
}

func (s *story) leave(ctx context.Context, t gomatrixserverlib.Transaction) error {
	transaction, err := client.NewTransaction(t)
	if err != nil {
		return err
	}
	return s.a.relays.Send(ctx, relayName, transaction)
}

func (s *story) killRelay(ctx context.Context) error {
	killed := s.relay
	killed.kill()
	s.say("\nThe relay process %d is killed, as by kill -9, and started again.", killed.id())
	return s.startRelay(ctx)
}

// leaveAgain repeats a transaction, as a node does that isn't sure whether its
// request came through: with the same ID and another time stamp.
func (s *story) leaveAgain(ctx context.Context) error {
	again := s.sent[len(s.sent)-1]
	again.OriginServerTS += 1000
	s.say("A isn't sure about the last transaction and leaves %s once more.", again.TransactionID)
	return s.leave(ctx, again)
}

func (s *story) letStrangerTry(ctx context.Context) error {
	s.say("\nC, a stranger, asks the relay for B's mail, and acknowledges it to have it deleted:")
	err := s.c.askFor(ctx, s.b.ServerName, relayName, int64(len(s.sent)))
	answer, ok := errors.AsType[gomatrix.HTTPError](err)
	if err == nil {
		return errors.New("C must get 403 for B's mail, but was answered")
	}
	if !ok || answer.Code != http.StatusForbidden {
		return fmt.Errorf("C must get 403 for B's mail, but got: %w", err)
	}
	s.say("    %d %s", answer.Code, answer.Contents)
	return nil
}

func (s *story) fetch(ctx context.Context) error {
	s.say("\nB comes back and asks the relay until its mailbox is empty:")
	handled, err := s.b.relays.Drain(ctx, relayName, s.inbox.take)
	if err != nil {
		return err
	}
	for _, answer := range s.inbox.got {
		t, err := answer.Decode()
		if err != nil {
			return err
		}
		s.say("    entry %d (%s): hashes and signatures are A's", answer.EntryID, contents(t))
	}
	if handled != len(s.inbox.got) {
		return fmt.Errorf("%d transactions were handled, Drain says %d", len(s.inbox.got), handled)
	}
	return s.inbox.compare(s.sent)
}

// end makes sure that nothing is left, and stops the relay.
func (s *story) end(ctx context.Context) error {
	answer, err := s.b.relays.Next(ctx, relayName, 0)
	if err != nil {
		return err
	}
	if answer.EntriesQueued {
		return fmt.Errorf("the mailbox of B still has entry %d", answer.EntryID)
	}
	s.say("The mailbox of B is empty.")
	loopback.CloseIdleConnections()
	stopping := s.relay
	s.relay = nil
	return stopping.stop()
}

func contents(t gomatrixserverlib.Transaction) string {
	return fmt.Sprintf("room events: %d, typing notices: %d", len(t.PDUs), len(t.EDUs))
}

// rootCause is the part of a network error that says what happened.
func rootCause(err error) error {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err
}
