package main

import (
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// state is the current state of a room. gomatrixserverlib has such a type too, but
// makes it in other ways in its versions.
type state map[gomatrixserverlib.StateKeyTuple]gomatrixserverlib.PDU

var _ gomatrixserverlib.AuthEventProvider = state(nil)

func (s state) add(event gomatrixserverlib.PDU) {
	s[gomatrixserverlib.StateKeyTuple{EventType: event.Type(), StateKey: *event.StateKey()}] = event
}

func (s state) get(kind, key string) (gomatrixserverlib.PDU, error) {
	return s[gomatrixserverlib.StateKeyTuple{EventType: kind, StateKey: key}], nil
}

func (s state) Create() (gomatrixserverlib.PDU, error)      { return s.get(spec.MRoomCreate, "") }
func (s state) JoinRules() (gomatrixserverlib.PDU, error)   { return s.get(spec.MRoomJoinRules, "") }
func (s state) PowerLevels() (gomatrixserverlib.PDU, error) { return s.get(spec.MRoomPowerLevels, "") }

func (s state) Member(user spec.SenderID) (gomatrixserverlib.PDU, error) {
	return s.get(spec.MRoomMember, string(user))
}

func (s state) ThirdPartyInvite(key string) (gomatrixserverlib.PDU, error) {
	return s.get(spec.MRoomThirdPartyInvite, key)
}

// Valid says that all events are of one room.
func (s state) Valid() bool { return true }
