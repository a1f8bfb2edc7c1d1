package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/wire"
)

// A keyServer is the part of ordinary servers that publishes keys, and an
// http.RoundTripper that leads to it.
type keyServer struct {
	validFor time.Duration
	padding  int
	more     int // keys
	delay    time.Duration
	fail     error
	hang     string // servers whose name ends so never answer

	mu    sync.Mutex
	keys  map[string]ed25519.PrivateKey // by server name
	asked []string

	hanging atomic.Int64 // requests that wait
}

const ordinaryKeyID gomatrixserverlib.KeyID = "ed25519:auto"

func newKeyServer(names ...string) *keyServer {
	s := &keyServer{validFor: time.Hour, keys: make(map[string]ed25519.PrivateKey)}
	for _, name := range names {
		s.keys[name] = ed25519.NewKeyFromSeed([]byte(fmt.Sprintf("%-32.32s", name)))
	}
	return s
}

func (s *keyServer) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.asked = append(s.asked, r.URL.Host)
	s.mu.Unlock()
	delay := s.delay
	if s.hang != "" && strings.HasSuffix(r.URL.Host, s.hang) {
		delay = 1000 * time.Hour
	}
	s.hanging.Add(1)
	defer s.hanging.Add(-1)
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if s.fail != nil {
		return nil, s.fail
	}
	response := &http.Response{StatusCode: http.StatusNotFound, Request: r, Body: io.NopCloser(strings.NewReader("{}"))}
	if key, ok := s.keys[r.URL.Host]; ok && r.URL.Path == "/_matrix/key/v2/server" {
		response.StatusCode = http.StatusOK
		response.Body = io.NopCloser(bytes.NewReader(s.publish(r.URL.Host, key)))
	}
	return response, nil
}

func (s *keyServer) publish(name string, key ed25519.PrivateKey) []byte {
	fields := gomatrixserverlib.ServerKeyFields{
		ServerName:    spec.ServerName(name),
		VerifyKeys:    map[gomatrixserverlib.KeyID]gomatrixserverlib.VerifyKey{ordinaryKeyID: {Key: spec.Base64Bytes(key.Public().(ed25519.PublicKey))}},
		OldVerifyKeys: make(map[gomatrixserverlib.KeyID]gomatrixserverlib.OldVerifyKey),
		ValidUntilTS:  spec.AsTimestamp(time.Now().Add(s.validFor)),
	}
	for i := range s.more {
		id := gomatrixserverlib.KeyID(fmt.Sprintf("ed25519:old%d", i))
		fields.OldVerifyKeys[id] = gomatrixserverlib.OldVerifyKey{VerifyKey: fields.VerifyKeys[ordinaryKeyID], ExpiredTS: 1}
	}
	unsigned, err := json.Marshal(fields)
	if err != nil {
		panic(err) // can't be
	}
	signed, err := gomatrixserverlib.SignJSON(name, ordinaryKeyID, key, unsigned)
	if err != nil {
		panic(err) // can't be
	}
	return append(signed, strings.Repeat(" ", s.padding)...)
}

func (s *keyServer) times() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// verifier checks as the program does.
func (s *keyServer) verifier() *wire.Verifier {
	return &wire.Verifier{ServerName: relayName, Keys: newKeys(s)}
}

// signed is a request by a server, signed with the key of another name (which
// is its own unless the test wants a forgery).
func (s *keyServer) signed(t *testing.T, name string, id gomatrixserverlib.KeyID, keyOf string) wire.SignedRequest {
	t.Helper()
	request := fclient.NewFederationRequest(http.MethodPut, spec.ServerName(name), relayName, "/_matrix/federation/v1/send_relay/1/@a:b")
	require.NoError(t, request.SetContent(map[string]any{"pdus": []string{}}))
	require.NoError(t, request.Sign(spec.ServerName(name), id, s.keys[keyOf]))
	made, err := request.HTTPRequest()
	require.NoError(t, err)
	return wire.SignedRequest{
		Method: made.Method, URI: made.URL.RequestURI(), Authorization: made.Header["Authorization"], Content: request.Content(),
	}
}

func verify(ctx context.Context, v *wire.Verifier, r wire.SignedRequest) error {
	_, err := v.Verify(ctx, &r, time.Now())
	return err
}

func assertUnavailable(t *testing.T, err error) { assertRefused(t, http.StatusServiceUnavailable, err) }

func assertRefused(t *testing.T, status int, err error) {
	t.Helper()
	var e *wire.Error
	if assert.True(t, errors.As(err, &e), "%v", err) {
		assert.Equal(t, status, e.Status, "%v", err)
	}
}
