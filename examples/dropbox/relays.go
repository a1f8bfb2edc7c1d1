package main

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// The relays of B. Requests to them are signed for these names.
const (
	relay1 spec.ServerName = "relay1" // is killed
	relay2 spec.ServerName = "relay2" // is away for a while
	relay3 spec.ServerName = "relay3" // is gone for good
	relay4 spec.ServerName = "relay4" // forges
)

// announceRelays has B say where its mail goes, and give A a link. Nobody enters a relay of
// anybody else.
func (s *story) announceRelays(ctx context.Context) error {
	for _, name := range []spec.ServerName{relay1, relay2, relay3} {
		if err := s.startRelay(ctx, name); err != nil {
			return err
		}
	}
	if err := s.startVillain(); err != nil {
		return err
	}
	if err := s.b.Announce(ctx, relay1, relay2, relay3, relay4); err != nil {
		return err
	}
	record, err := wire.ReadLink(s.b.Link()) // as B sends it to A in another way
	if err != nil {
		return err
	}
	s.say("B announces these relays: it signs a record that names them, and brings it there. A gets it as a link:")
	s.say("    %.60s...", record.Link())
	return s.a.AddRecord(ctx, record)
}

// startVillain starts a relay that seems to be as good as the others.
func (s *story) startVillain() (err error) {
	if s.villain, err = startVillain(relay4, s.roads.place); err != nil {
		return err
	}
	s.say("%s is running, too. Nobody knows that a villain runs it.", relay4)
	return nil
}

func (s *story) startRelay(ctx context.Context, name spec.ServerName) error {
	relay, err := startRelay(ctx, name, filepath.Join(s.directory, string(name)+".db"))
	if err != nil {
		return err
	}
	s.relays[name] = relay
	s.roads.place(name, relay.address)
	s.say("%s is running: process %d, at %s, with its mail in a SQLite file.", name, relay.id(), relay.address)
	return nil
}

func (s *story) killRelay(name spec.ServerName) {
	relay := s.relays[name]
	delete(s.relays, name)
	relay.kill()
	s.say("%s, process %d, is killed, as by kill -9.", name, relay.id())
}

func (s *story) stopRelays() (err error) {
	loopback.CloseIdleConnections()
	for name, relay := range s.relays {
		delete(s.relays, name)
		err = errors.Join(err, relay.stop())
	}
	return err
}
