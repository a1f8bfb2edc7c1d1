package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// errUnusable says that trying again is of no use until somebody has changed
// something at the servers.
var errUnusable = errors.New("the stream can't be used")

// diagnoseEvery is how often it is looked for the reason why there is no answer.
const diagnoseEvery = time.Second

// A trial is the attempts of one request. It ends when their time is over, or
// once it's certain that they can't succeed.
type trial struct {
	engine  *engine
	end     time.Time
	denials error     // the last that there was before
	look    time.Time // when to look for a reason
	found   bool      // a reason, which must be found twice: servers that start may be wrong once
}

func (e *engine) newTrial(end time.Time) *trial {
	return &trial{engine: e, end: end, denials: e.conn.LastError(), look: time.Now().Add(diagnoseEvery)}
}

// over returns nil as long as the request that has failed may be tried again.
func (t *trial) over(ctx context.Context, failed error) error {
	now := time.Now()
	if now.After(t.end) {
		return failed
	}
	if lost := t.engine.trust.Failure(); lost != nil {
		return fmt.Errorf("%w: %w", errUnusable, lost)
	}
	if now.Before(t.look) {
		return nil
	}
	reason := t.engine.diagnose(ctx, t.denials)
	t.look = time.Now().Add(diagnoseEvery)
	if reason != nil && t.found {
		if errors.Is(reason, errDeleted) { // opening makes a new one
			t.engine.trust.Lose(reason)
			reason = t.engine.trust.Failure()
		}
		return fmt.Errorf("%w: %w", errUnusable, reason)
	}
	t.found = reason != nil
	return nil
}

// diagnose returns why no request can succeed now, nil if that isn't known.
func (e *engine) diagnose(ctx context.Context, before error) error {
	denied := e.conn.LastError()
	if errors.Is(denied, nats.ErrPermissionViolation) && denied != before && strings.Contains(denied.Error(), e.stream) { //nolint:errorlint // the same one
		return denied
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	stream, err := e.js.Stream(ctx, e.stream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("%w: %w", errDeleted, err)
	case err != nil && verdictOn(err) == final:
		return err
	case err == nil && stream.CachedInfo().Config.Sealed:
		return errSealed
	}
	return nil
}
