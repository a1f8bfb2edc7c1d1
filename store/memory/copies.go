package memory

import (
	"context"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	ledger "github.com/matrixrelay/relay/store/internal/copies"
)

var _ store.Measured = (*Store)(nil)

// Sizes implements store.Measured. There is no file.
func (s *Store) Sizes(ctx context.Context) (store.Sizes, error) {
	if err := s.enter(ctx); err != nil {
		return store.Sizes{}, err
	}
	defer s.mu.Unlock()
	return store.Sizes{Copies: s.copies.leaving.Count()}, nil
}

// A key tells mails apart: copies have the same one.
type key struct {
	destination, origin spec.ServerName
	transactionID       gomatrixserverlib.TransactionID
	digest              store.Digest
}

func keyOf(mail *store.Mail) key {
	return key{mail.Destination, mail.Origin, mail.TransactionID, mail.Digest}
}

// copies knows the mail that must not be stored again: mail that is kept, and mail
// that left less than the retention ago, as far as the limits go.
type copies struct {
	known   map[key]struct{}
	leaving *ledger.Ledger[key]
}

func newCopies(options Options) copies {
	limits := ledger.LimitsOf(options.MaxCopies, options.MaxCopiesOfOrigin)
	return copies{known: make(map[key]struct{}), leaving: ledger.New[key](limits)}
}

func (c *copies) has(k key) bool {
	_, known := c.known[k]
	return known
}

func (c *copies) remember(k key) { c.known[k] = struct{}{} }

// forgetAt says when a key may be forgotten: not before any that it was said
// of earlier.
func (c *copies) forgetAt(k key, until time.Duration) {
	c.leaving.Add(k.origin, k, int64(until))
	for {
		oldest, _, isOver := c.leaving.Over(0)
		if !isOver {
			return
		}
		delete(c.known, oldest)
	}
}

func (c *copies) forget(now time.Duration) {
	c.leaving.Expire(int64(now), func(k key) { delete(c.known, k) })
}
