package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// A story is everybody in it.
type story struct {
	out       io.Writer
	directory string // of all databases
	roads     network
	relays    map[spec.ServerName]*relayProcess // those that are running
	villain   *villain                          // or nil
	a, b      *node
}

// A step is a part of the story.
type step struct {
	name string
	tell func(context.Context) error
}

func (s *story) steps() []step {
	return []step{
		{"two nodes meet", s.meet},
		{"A writes", s.writeToAbsent},
		{"all relays are lost", s.loseRelays},
		{"a relay is reached again", s.relayIsReached},
		{"the relay is back", s.relayIsBack},
		{"a stranger tries", s.letStrangerTry},
		{"B comes back", s.fetch},
		{"a villain is caught", s.catchVillain},
		{"B answers", s.answer},
		{"the end", s.end},
	}
}

// run tells the story to out. Its error says how it went wrong.
func run(ctx context.Context, out io.Writer) error {
	return withStory(out, func(s *story) error { return s.tell(ctx, s.steps()) })
}

func withStory(out io.Writer, tell func(*story) error) (err error) {
	directory, err := os.MkdirTemp("", "dropbox-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()
	s := &story{out: out, directory: directory, relays: make(map[spec.ServerName]*relayProcess)}
	defer func() { err = errors.Join(err, s.clean()) }()
	return tell(s)
}

func (s *story) tell(ctx context.Context, steps []step) error {
	start := time.Now()
	for _, step := range steps {
		if err := step.tell(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	s.say("Everything arrived once, in order and unchanged, and nothing else did, in %v.", time.Since(start).Round(time.Millisecond))
	return nil
}

func (s *story) say(format string, args ...any) { _, _ = fmt.Fprintf(s.out, format+"\n", args...) }

// clean ends everything that is still running, also when the story broke off.
func (s *story) clean() (err error) {
	for _, relay := range s.relays {
		relay.kill()
	}
	if s.villain != nil {
		err = s.villain.close()
	}
	for _, n := range []*node{s.a, s.b} {
		if n != nil {
			err = errors.Join(err, n.close())
		}
	}
	return err
}

// meet makes the nodes, the room that they share and B's relays.
func (s *story) meet(ctx context.Context) (err error) {
	if s.a, err = s.newNode(ctx, "alice"); err != nil {
		return err
	}
	if s.b, err = s.newNode(ctx, "bob"); err != nil {
		return err
	}
	if s.a.inbox.room, err = newRoom(s.a, s.b); err != nil {
		return err
	}
	s.b.inbox.room = s.a.inbox.room.asKnownNow()
	s.say("Two nodes share a room. A node's name is its public key:")
	s.say("    A  %s", s.a.ServerName)
	s.say("    B  %s", s.b.ServerName)
	if err := s.a.open(s.roads.place); err != nil {
		return err
	}
	if err := s.b.open(s.roads.place); err != nil {
		return err
	}
	return s.announceRelays(ctx)
}

func (s *story) newNode(ctx context.Context, user string) (*node, error) {
	return newNode(ctx, user, filepath.Join(s.directory, user+".db"), &s.roads)
}

// end makes sure that nothing is left anywhere, and stops the relays.
func (s *story) end(ctx context.Context) error {
	for _, relay := range []spec.ServerName{relay1, relay2, relay4} {
		answer, err := s.b.caller.Next(ctx, relay, 0)
		if err != nil {
			return err
		}
		if answer.EntriesQueued {
			return fmt.Errorf("B's mailbox at %s still has entry %d", relay, answer.EntryID)
		}
	}
	for _, n := range []*node{s.a, s.b} {
		usage, err := n.mail.Usage(ctx, store.PrivateHalf)
		if err != nil {
			return err
		}
		if usage.Entries > 0 {
			return fmt.Errorf("%d transactions are left in the outbox of %s", usage.Entries, n.name)
		}
	}
	s.say("\nB's mailboxes at the relays are empty, and so are both outboxes.")
	return s.stopRelays()
}

func contents(t gomatrixserverlib.Transaction) string {
	return fmt.Sprintf("room events: %d, typing notices: %d", len(t.PDUs), len(t.EDUs))
}

// rootCause is the innermost part of a network error.
func rootCause(err error) error {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err
}
