package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A room is a node's view of a Matrix room: who may do what, and which
// event came last.
type room struct {
	id      string
	version gomatrixserverlib.IRoomVersion
	state   state
	last    gomatrixserverlib.PDU
	depth   int64
}

// newRoom makes a room that a's user opened and b's user joined while b was
// there.
func newRoom(a, b *node) (*room, error) {
	version, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersionV11)
	if err != nil {
		return nil, err
	}
	r := &room{id: "!dropbox:" + string(a.ServerName), version: version, state: make(state)}
	alice, bob := a.user, b.user
	for _, e := range []struct {
		by                     *node
		sender, kind, stateKey string
		content                any
	}{
		{a, alice, spec.MRoomCreate, "", map[string]any{"room_version": version.Version()}},
		{a, alice, spec.MRoomMember, alice, map[string]any{"membership": spec.Join}},
		{a, alice, spec.MRoomPowerLevels, "", map[string]any{"users": map[string]int{alice: 100}}},
		{a, alice, spec.MRoomJoinRules, "", map[string]any{"join_rule": spec.Public}},
		{b, bob, spec.MRoomMember, bob, map[string]any{"membership": spec.Join}},
	} {
		if _, err := r.write(e.by, e.sender, e.kind, &e.stateKey, e.content); err != nil {
			return nil, fmt.Errorf("making the room: %s: %w", e.kind, err)
		}
	}
	return r, nil
}

// asKnownNow returns the room as the other node knows it now.
func (r *room) asKnownNow() *room {
	known := *r
	return &known
}

// write makes the next event of the room, hashed and signed by its node.
func (r *room) write(by *node, sender, kind string, stateKey *string, content any) (gomatrixserverlib.PDU, error) {
	builder := r.version.NewEventBuilder()
	builder.RoomID, builder.SenderID, builder.Type, builder.StateKey = r.id, sender, kind, stateKey
	builder.Depth = r.depth + 1
	if r.last != nil {
		builder.PrevEvents = []string{r.last.EventID()}
	}
	if err := builder.SetContent(content); err != nil {
		return nil, err
	}
	if err := builder.AddAuthEvents(r.state); err != nil {
		return nil, err
	}
	event, err := builder.Build(time.Now(), by.ServerName, by.KeyID, by.PrivateKey)
	if err != nil {
		return nil, err
	}
	return event, r.append(event)
}

// append takes an event in, if the rules of the room allow it.
func (r *room) append(event gomatrixserverlib.PDU) error {
	if err := gomatrixserverlib.Allowed(event, r.state, userIDForSender); err != nil {
		return err
	}
	if event.StateKey() != nil {
		r.state.add(event)
	}
	r.last, r.depth = event, event.Depth()
	return nil
}

// say makes messages of a node's user.
func (r *room) say(by *node, texts ...string) ([]json.RawMessage, error) {
	events := make([]json.RawMessage, 0, len(texts))
	for i, text := range texts {
		content := map[string]any{
			"msgtype": "m.text",
			"body":    text,
			// Fields that nobody on the way knows must arrive as well.
			"org.example.dropbox": map[string]any{"nr": i, "largest": 1<<53 - 1, "none": nil},
		}
		event, err := r.write(by, by.user, "m.room.message", nil, content)
		if err != nil {
			return nil, fmt.Errorf("writing %q: %w", text, err)
		}
		events = append(events, event.JSON())
	}
	return events, nil
}

// userIDForSender: senders are user IDs in the room versions of today.
func userIDForSender(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
	return spec.NewUserID(string(sender), true)
}
