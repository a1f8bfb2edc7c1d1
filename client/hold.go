package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// A heldError says that a transaction is to be decided later. It stays at its relay,
// and others pass it.
type heldError struct{ why error }

func (e *heldError) Error() string { return "it is held: " + e.why.Error() }
func (e *heldError) Unwrap() error { return e.why }

func isHeld(err error) bool {
	var held *heldError
	return errors.As(err, &held)
}

// maxPassing bounds how many answers of a relay may pass held mail. They are
// fetched again with it.
const maxPassing = 16

// A holding is mail that stays at a relay, while other mail passes it.
type holding struct {
	why     error                    // of the first; nil if nothing is held
	origins map[spec.ServerName]bool // all mail of theirs that is behind it, so that it stays in order
	last    int64                    // the entry that was looked at last
	answers int                      // since the first
}

// takeUnlessHeld deals with a transaction, or notes that it stays at the relay. It
// reports whether it was of use.
func (m *mailbox) takeUnlessHeld(ctx context.Context, answer wire.Answer) (use bool, err error) {
	h, id := &m.held, answer.EntryID
	stays := h.why != nil && h.origins[originOf(answer)]
	if _, passed := m.turn.passed[id]; !passed && !stays {
		use, err = m.take(ctx, answer)
		if stays = isHeld(err); stays {
			h.add(originOf(answer), fmt.Errorf("client: entry %d of %s: %w", id, m.Relay, err))
		} else if err != nil {
			return false, err
		} else {
			m.turn.fetched.Add(1)
		}
	}
	switch {
	case h.why == nil:
		m.last = id
		delete(m.turn.passed, id)
		return use, nil
	case !stays && len(m.turn.passed) < maxPassing*mostLimit:
		m.turn.passed[id] = struct{}{}
	}
	h.last = id
	return use, nil
}

func (h *holding) add(origin spec.ServerName, why error) {
	if h.why == nil {
		h.why, h.origins = why, make(map[spec.ServerName]bool)
	}
	h.origins[origin] = true
}

// endsHeld reports whether no more mail is to pass held mail.
func (m *mailbox) endsHeld(answer wire.Answer) bool {
	h := &m.held
	return h.why != nil && (!answer.EntriesQueued || answer.EntryID <= h.last || h.answers >= maxPassing)
}

// originOf is the origin of a transaction, as its relay says.
func originOf(answer wire.Answer) spec.ServerName {
	if answer.IsListed() {
		return answer.Origin
	}
	proof, err := wire.ReadProof(answer.Proof)
	if err == nil && proof.Origin != "" {
		return proof.Origin
	}
	var content struct {
		Origin spec.ServerName `json:"origin"`
	}
	_ = json.Unmarshal(answer.Transaction, &content) // empty if it can't be read
	return content.Origin
}

// A keyless is an origin whose key can't be had, for mail of a relay.
type keyless struct{ relay, origin spec.ServerName }

// A patience is since when a key was asked for in vain, and for which entry last.
type patience struct {
	since, last time.Duration
	entry       int64
}

// maxKeyless bounds for how many origins there is patience. When there are too many,
// it begins anew for any of them.
const maxKeyless = 1000

// withoutKey decides about mail whose proof can't be checked. It is held for a
// while where proof is required, and where there is a key that wasn't valid by our
// clock. For the next mail of the same origin the while doesn't begin anew, or it
// could be held for ever.
func (r *Receiver) withoutKey(received *Received, of keyless, err error) error {
	if !r.config.RequireProof && !errors.Is(err, wire.ErrKeyNotValid) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.calendar.look().since
	have, known := r.keyless[of]
	if !known || have.entry != received.EntryID && now-have.last > r.config.KeyPatience {
		have.since = now
	}
	have.last, have.entry = now, received.EntryID
	if !known {
		makeRoom(r.keyless, maxKeyless)
	}
	r.keyless[of] = have
	switch {
	case now-have.since < r.config.KeyPatience:
		return &heldError{err}
	case !r.config.RequireProof:
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnproven, err)
}

func (r *Receiver) withKey(of keyless) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.keyless, of)
}
