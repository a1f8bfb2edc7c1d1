package client

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// maxContacts bounds the relays that are remembered.
const maxContacts = 1000

// contacts remembers how requests to relays went. A nil one remembers nothing.
type contacts struct {
	mu     sync.Mutex
	relays map[spec.ServerName]contact
}

// A contact has the last outcomes of requests to one relay.
type contact struct {
	success, failure    time.Time
	err                 error // of the last that failed
	successes, failures int64
}

func newContacts() *contacts { return &contacts{relays: make(map[spec.ServerName]contact)} }

// note remembers the outcome of a request, unless it failed for a reason of ours:
// ctx is that of the request.
func (c *contacts) note(ctx context.Context, relay spec.ServerName, err error) {
	if c == nil || errors.Is(ctx.Err(), context.Canceled) || errors.Is(err, ErrUnsendable) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	have, known := c.relays[relay]
	if !known {
		makeRoom(c.relays, maxContacts)
	}
	if err == nil {
		have.success, have.successes = time.Now(), have.successes+1
	} else {
		have.failure, have.failures, have.err = time.Now(), have.failures+1, err
	}
	c.relays[relay] = have
}

// all returns a copy.
func (c *contacts) all() map[spec.ServerName]contact {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.relays)
}
