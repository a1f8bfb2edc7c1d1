package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"
)

// A user is a Matrix client of a server.
type user struct {
	w          *world
	server     spec.ServerName
	id, token  string
	since      string
	messages   []string // in the order of the timeline
	toDevice   []string // likewise, each once
	operations int
}

// register makes a user at a server.
func (w *world) register(seed, name string) *user {
	u := &user{w: w, server: nameOf(seed)}
	var got struct {
		UserID      string `json:"user_id"`
		AccessToken string `json:"access_token"`
	}
	u.must(http.MethodPost, "register", map[string]any{
		"username": name, "password": "correct horse battery staple", "device_id": "PHONE",
		"auth": map[string]string{"type": "m.login.dummy"},
	}, &got)
	u.id, u.token = got.UserID, got.AccessToken
	return u
}

// do makes a request of the client API, and returns the status.
func (u *user) do(method, path string, content, answer any) (status int, body []byte) {
	t := u.w.t
	t.Helper()
	encoded, err := json.Marshal(content)
	require.NoError(t, err)
	request, err := http.NewRequestWithContext(t.Context(), method, "matrix://"+string(u.server)+"/_matrix/client/v3/"+path, bytes.NewReader(encoded))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+u.token)
	response, err := u.w.network.transport().RoundTrip(request)
	require.NoError(t, err)
	body, err = io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	if answer != nil && response.StatusCode == http.StatusOK {
		require.NoError(t, json.Unmarshal(body, answer))
	}
	return response.StatusCode, body
}

func (u *user) must(method, path string, content, answer any) {
	u.w.t.Helper()
	status, body := u.do(method, path, content, answer)
	require.Equal(u.w.t, http.StatusOK, status, "%s %s: %s", method, path, body)
}

func (u *user) createRoom() (room string) {
	var got struct {
		RoomID string `json:"room_id"`
	}
	u.must(http.MethodPost, "createRoom", map[string]string{"preset": "public_chat"}, &got)
	return got.RoomID
}

func (u *user) join(room string, via spec.ServerName) {
	u.must(http.MethodPost, "join/"+url.PathEscape(room)+"?server_name="+string(via), struct{}{}, nil)
}

func (u *user) say(room, text string) {
	u.operations++
	u.must(http.MethodPut, fmt.Sprintf("rooms/%s/send/m.room.message/%d", url.PathEscape(room), u.operations),
		map[string]string{"msgtype": "m.text", "body": text}, nil)
}

// tell sends a message to another user's device: an EDU, which nothing but its origin
// vouches for.
func (u *user) tell(other *user, text string) {
	u.operations++
	u.must(http.MethodPut, fmt.Sprintf("sendToDevice/org.example.word/%d", u.operations),
		map[string]any{"messages": map[string]any{other.id: map[string]any{"PHONE": map[string]string{"body": text}}}}, nil)
}

type content struct {
	Content struct {
		Body string `json:"body"`
	} `json:"content"`
}

// sync gets news for the user.
func (u *user) sync() {
	u.w.t.Helper()
	var got struct {
		NextBatch string `json:"next_batch"`
		ToDevice  struct {
			Events []content `json:"events"`
		} `json:"to_device"`
		Rooms struct {
			Join map[string]struct {
				Timeline struct {
					Limited bool      `json:"limited"`
					Events  []content `json:"events"`
				} `json:"timeline"`
			} `json:"join"`
		} `json:"rooms"`
	}
	u.must(http.MethodGet, "sync?timeout=0&filter="+url.QueryEscape(`{"room":{"timeline":{"limit":1000}}}`)+"&since="+u.since, struct{}{}, &got)
	u.since = got.NextBatch
	for _, room := range got.Rooms.Join {
		for _, event := range room.Timeline.Events {
			if event.Content.Body != "" {
				u.messages = append(u.messages, event.Content.Body)
			}
		}
	}
	for _, event := range got.ToDevice.Events {
		if !slices.Contains(u.toDevice, event.Content.Body) { // Dendrite's position goes back at times
			u.toDevice = append(u.toDevice, event.Content.Body)
		}
	}
}

// awaitAll waits for the last of these messages in the room and to the device, and
// requires that they came in order, and nothing else; those in the room once.
func (u *user) awaitAll(messages, toDevice []string) {
	u.w.t.Helper()
	await(u.w.t, "all mail is there", func() bool {
		u.sync()
		missing := func(want, have []string) bool {
			return slices.ContainsFunc(want, func(text string) bool { return !slices.Contains(have, text) })
		}
		return !missing(messages, u.messages) && !missing(toDevice, u.toDevice)
	})
	require.Equal(u.w.t, messages, u.messages)
	require.Equal(u.w.t, toDevice, u.toDevice)
}
