package move

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

var _ store.Managed = (*Store)(nil)

var errNotManaged = errors.New("move: one of the stores isn't a store.Managed")

// managed returns the ability of the store.
func managed(s store.Store) (store.Managed, error) {
	if m, ok := s.(store.Managed); ok {
		return m, nil
	}
	return nil, errNotManaged
}

// List implements store.Managed. Like Next it has mail moved first, since its IDs are
// those of the new store.
func (s *Store) List(ctx context.Context, destination spec.ServerName, after int64, limit int) ([]store.Listed, error) {
	to, err := managed(s.to)
	if err != nil {
		return nil, err
	}
	return readOn(ctx, s, destination, limit, func() ([]store.Listed, error) { return to.List(ctx, destination, after, limit) })
}

// Senders implements store.Managed: the sum of both stores. A mailbox that is being
// moved may be counted twice.
func (s *Store) Senders(ctx context.Context, destination spec.ServerName, limit int) ([]store.Sender, error) {
	to, err := managed(s.to)
	if err != nil {
		return nil, err
	}
	if s.detours.over.Load() {
		return to.Senders(ctx, destination, limit)
	}
	from, err := managed(s.from)
	if err != nil {
		return nil, err
	}
	sums := make(map[spec.ServerName]store.Sender)
	for _, one := range []store.Managed{from, to} {
		senders, err := one.Senders(ctx, destination, math.MaxInt32) // large in the sum may be small in both
		if err != nil {
			return nil, err
		}
		for _, sender := range senders {
			sum := sums[sender.Origin]
			sums[sender.Origin] = store.Sender{
				Origin: sender.Origin, Mailboxes: sum.Mailboxes + sender.Mailboxes,
				Entries: sum.Entries + sender.Entries, Bytes: sum.Bytes + sender.Bytes,
			}
		}
	}
	senders := slices.AppendSeq(make([]store.Sender, 0, len(sums)), maps.Values(sums))
	slices.SortFunc(senders, store.CompareSenders)
	return senders[:min(len(senders), max(limit, 1))], nil
}

// Recipients implements store.Managed.
func (s *Store) Recipients(ctx context.Context, origin, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	return s.ofBoth(limit, func(one store.Store) ([]spec.ServerName, error) {
		m, err := managed(one)
		if err != nil {
			return nil, err
		}
		return m.Recipients(ctx, origin, after, limit)
	})
}

// Remove implements store.Managed. Entries that are listed are in the new store.
func (s *Store) Remove(ctx context.Context, destination spec.ServerName, ids []int64) (int, error) {
	to, err := managed(s.to)
	if err != nil {
		return 0, err
	}
	return to.Remove(ctx, destination, ids)
}
