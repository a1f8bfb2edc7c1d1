package main

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// The relays of B. Requests to them are signed for these names.
const (
	relay1 spec.ServerName = "relay1" // is killed
	relay2 spec.ServerName = "relay2" // comes late
	relay3 spec.ServerName = "relay3" // is never there
	relay4 spec.ServerName = "relay4" // forges
)

// assignRelays tells both nodes of B's relays, by hand.
func (s *story) assignRelays(ctx context.Context) error {
	for _, n := range []*node{s.a, s.b} {
		if err := n.peers.AddRelays(ctx, s.b.ServerName, relay1, relay2, relay3); err != nil {
			return err
		}
	}
	s.say("B has three relays, and A knows them. %s and %s can't be reached so far.", relay2, relay3)
	s.roads.place(relay2, deadAddress)
	s.roads.place(relay3, deadAddress)
	return s.startRelay(ctx, relay1)
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

// addVillain makes another relay known that seems to be as good as the others.
func (s *story) addVillain(ctx context.Context) (err error) {
	if s.villain, err = startVillain(relay4, s.roads.place); err != nil {
		return err
	}
	for _, n := range []*node{s.a, s.b} {
		if err := n.peers.AddRelays(ctx, s.b.ServerName, relay4); err != nil {
			return err
		}
	}
	s.say("B gets a fourth relay: %s. Nobody knows that a villain runs it.", relay4)
	return nil
}

func (s *story) killRelay(name spec.ServerName) {
	relay := s.relays[name]
	delete(s.relays, name)
	relay.kill()
	s.say("\n%s, process %d, is killed, as by kill -9.", name, relay.id())
}

func (s *story) stopRelays() (err error) {
	loopback.CloseIdleConnections()
	for name, relay := range s.relays {
		delete(s.relays, name)
		err = errors.Join(err, relay.stop())
	}
	return err
}
