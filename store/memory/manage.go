package memory

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

var _ store.Managed = (*Store)(nil)

// List implements store.Managed.
func (s *Store) List(ctx context.Context, destination spec.ServerName, after int64, limit int) ([]store.Listed, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	page, now := []store.Listed{}, s.now()
	for _, it := range s.after(destination, after) {
		if len(page) == max(limit, 1) {
			break
		}
		listed := store.Listed{
			ID: it.ID, Origin: it.Origin, TransactionID: it.TransactionID, Digest: it.Digest,
			Size: it.Size(), Proven: len(it.Proof) > 0,
		}
		if it.until > 0 {
			listed.Lifetime = max(it.until-now, time.Millisecond)
		}
		page = append(page, listed)
	}
	return page, nil
}

// Senders implements store.Managed.
func (s *Store) Senders(ctx context.Context, destination spec.ServerName, limit int) ([]store.Sender, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	sums := make(map[spec.ServerName]store.Sender)
	if destination != "" && destination != store.PrivateHalf {
		s.mailbox(destination).addSenders(sums)
	} else {
		for name, box := range s.mailboxes {
			if store.IsPrivate(name) == store.IsPrivate(destination) {
				box.addSenders(sums)
			}
		}
	}
	senders := slices.AppendSeq(make([]store.Sender, 0, len(sums)), maps.Values(sums))
	slices.SortFunc(senders, store.CompareSenders)
	return senders[:min(len(senders), max(limit, 1))], nil
}

func (b *mailbox) addSenders(sums map[spec.ServerName]store.Sender) {
	for origin, has := range b.origins {
		sum := sums[origin]
		sums[origin] = store.Sender{
			Origin: origin, Mailboxes: sum.Mailboxes + 1,
			Entries: sum.Entries + has.entries, Bytes: sum.Bytes + has.bytes,
		}
	}
}

// Recipients implements store.Managed.
func (s *Store) Recipients(ctx context.Context, origin, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	return s.page(ctx, after, limit, func(name spec.ServerName) bool {
		_, has := s.mailboxes[name].origins[origin]
		return has
	})
}

// Remove implements store.Managed. All are removed at once.
func (s *Store) Remove(ctx context.Context, destination spec.ServerName, ids []int64) (removed int, err error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	box, now := s.mailbox(destination), s.now()
	for _, id := range slices.Sorted(slices.Values(ids)) {
		i, found := box.search(id)
		if !found || box.items[i].gone { // the same ID twice
			continue
		}
		if box.items[i].until > 0 {
			s.expiring.Remove(box.items[i])
		}
		s.release(box, box.items[i], now)
		removed++
	}
	if removed > 0 {
		s.sweep(destination, box)
	}
	return removed, nil
}
