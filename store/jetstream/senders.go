package jetstream

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
)

const (
	// boxesAtOnce is how many mailboxes are gone through at once, and listAtOnce how
	// many entries of each are listed at a time.
	boxesAtOnce, listAtOnce = 16, 4096

	// tiesAtMost is how many senders of the same size are looked up beside those that
	// are asked for.
	tiesAtMost = 1000
)

// A tally counts the mail of one origin, of which only the hash is known. The newest of
// it has that key.
type tally struct {
	mailboxes, entries, bytes int64
	newest                    seal.Key
}

type tallies map[originHash]tally

// Senders implements store.Managed. It goes through the lists of all entries, and finds
// the name of an origin in its newest mail; if that has just been removed, the origin is
// left out.
func (s *Store) Senders(ctx context.Context, destination spec.ServerName, limit int) (senders []store.Sender, err error) {
	err = s.read(ctx, func(ctx context.Context) (err error) {
		sum := tallies{}
		if destination == "" || destination == store.PrivateHalf {
			sum, err = s.talliesOfHalf(ctx, destination)
		} else {
			err = s.addTallies(ctx, destination, sum)
		}
		if err == nil {
			senders, err = s.nameSenders(ctx, sum.largest(max(limit, 1)))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(senders, store.CompareSenders)
	return senders[:min(len(senders), max(limit, 1))], nil
}

// addTallies counts the entries of a mailbox.
func (s *Store) addTallies(ctx context.Context, destination spec.ServerName, sum tallies) error {
	seen := make(map[originHash]struct{})
	for after := int64(0); ; {
		items, err := s.list(ctx, query{destination: destination, after: after, entries: listAtOnce, bytes: math.MaxInt64})
		if err != nil || len(items) == 0 {
			return err
		}
		for _, it := range items {
			t := sum[it.origin]
			if _, known := seen[it.origin]; !known {
				seen[it.origin] = struct{}{}
				t.mailboxes++
			}
			t.entries, t.bytes, t.newest = t.entries+1, t.bytes+it.size, it.key
			sum[it.origin], after = t, it.id
		}
		if len(items) < listAtOnce {
			return nil
		}
	}
}

// talliesOfHalf counts all mailboxes of a half, some at once.
func (s *Store) talliesOfHalf(ctx context.Context, half spec.ServerName) (tallies, error) {
	sum := tallies{}
	for after := half; ; {
		names := s.cache.destinations(after, listAtOnce)
		if len(names) == 0 {
			return sum, nil
		}
		after = names[len(names)-1]
		for part := range slices.Chunk(names, boxesAtOnce) {
			parts, errs := make([]tallies, len(part)), make([]error, len(part))
			var counting sync.WaitGroup
			for i, name := range part {
				parts[i] = tallies{}
				counting.Go(func() { errs[i] = s.addTallies(ctx, name, parts[i]) })
			}
			counting.Wait()
			if err := cmp.Or(errs...); err != nil {
				return nil, err
			}
			for _, one := range parts {
				sum.add(one)
			}
		}
	}
}

func (t tallies) add(other tallies) {
	for origin, o := range other {
		sum := t[origin]
		t[origin] = tally{sum.mailboxes + o.mailboxes, sum.entries + o.entries, sum.bytes + o.bytes, o.newest}
	}
}

// largest returns those with most bytes, and some more that have as many as the last.
func (t tallies) largest(limit int) []tally {
	all := make([]tally, 0, len(t))
	for _, one := range t {
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b tally) int { return cmp.Compare(b.bytes, a.bytes) })
	n := min(limit, len(all))
	for most := n + tiesAtMost; n < min(len(all), most) && all[n].bytes == all[n-1].bytes; {
		n++
	}
	return all[:n]
}

// nameSenders looks up the names of origins.
func (s *Store) nameSenders(ctx context.Context, all []tally) ([]store.Sender, error) {
	keys := make([]seal.Key, len(all))
	for i, t := range all {
		keys[i] = t.newest
	}
	heads, err := s.heads(ctx, keys)
	if err != nil {
		return nil, err
	}
	senders := []store.Sender{}
	for i, t := range all {
		if heads[i].mail.Destination != "" {
			senders = append(senders, store.Sender{
				Origin: heads[i].mail.Origin, Mailboxes: t.mailboxes, Entries: t.entries, Bytes: t.bytes,
			})
		}
	}
	return senders, nil
}
