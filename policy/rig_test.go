package policy_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// A try is a request, as a relay asks about it.
type try struct {
	address             string
	known               spec.ServerName
	endpoint            wire.Endpoint
	origin, destination spec.ServerName
	bytes               int64
	room                policy.Room
}

func put(address string, origin, destination spec.ServerName, bytes int64) try {
	return try{address: address, endpoint: wire.SendRelay, origin: origin, destination: destination, bytes: bytes}
}

func get(address string, server spec.ServerName) try {
	return try{address: address, endpoint: wire.RelayTxn, origin: server, destination: server}
}

// begin asks at all stages. The request isn't over then.
func (c try) begin(t *testing.T, p policy.Policy) (*policy.Request, error) {
	r := &policy.Request{Known: c.known}
	if c.address != "" {
		r.Address = netip.MustParseAddr(c.address)
	}
	if err := p.Admit(t.Context(), r); err != nil {
		return r, err
	}
	r.Endpoint, r.Origin, r.Destination, r.Stage = c.endpoint, c.origin, c.destination, policy.Claimed
	if err := p.Admit(t.Context(), r); err != nil {
		return r, err
	}
	r.Bytes, r.Room, r.Stage = c.bytes, c.room, policy.Signed
	return r, p.Admit(t.Context(), r)
}

// run runs a request to its end, which stores its bytes if it is a PUT that is admitted.
func (c try) run(t *testing.T, p policy.Policy) error {
	r, err := c.begin(t, p)
	var used policy.Used
	if r.Stage != policy.Arrived { // else nothing was read
		used.Received = c.bytes
	}
	if err == nil && c.endpoint == wire.SendRelay {
		used.Stored = c.bytes
	}
	r.Done(used)
	return err
}

// leave is run with a store.
func (c try) leave(t *testing.T, p policy.Policy, s store.Store, id string) error {
	r, err := c.begin(t, p)
	var used policy.Used
	defer func() { r.Done(used) }()
	if err != nil {
		return err
	}
	mail := store.Mail{
		Origin: c.origin, Destination: c.destination, Body: make([]byte, c.bytes), Lifetime: r.Room.Lifetime,
		Digest: store.Digest([]byte(id + "                                ")[:32]),
	}
	stored, err := s.Put(t.Context(), mail, r.Room.Limits)
	if errors.Is(err, store.ErrFull) && r.Room.Spare != nil {
		stored, err = s.Put(t.Context(), mail, *r.Room.Spare)
	}
	if stored {
		used.Stored = c.bytes
	}
	return err
}

// requireStatus wants a refusal with that status, and returns when to come again.
func requireStatus(t *testing.T, status int, err error) (retryAfter time.Duration) {
	t.Helper()
	var e *wire.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, status, e.Status, e.Message)
	return e.RetryAfter
}
