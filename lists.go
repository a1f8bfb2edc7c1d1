package relay

import (
	"context"
	"errors"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// lists let receivers look first: they list the entries of a mailbox, and hand out single
// ones.
type lists struct {
	mail    store.Store
	managed store.Managed // nil: they aren't known
	repeats *repeats      // for lists, which have bytes of their own
}

// listedBytes is about the most that one entry takes in a list.
const listedBytes = 1 << 10

func newLists(config *Config) lists {
	managed, _ := config.Store.(store.Managed)
	return lists{config.Store, managed, newRepeats()}
}

func (l *lists) areKnown() bool { return l.managed != nil }

// list returns the list of the oldest entries after one, or store.ErrEmpty.
func (l *lists) list(ctx context.Context, destination spec.ServerName, after int64, most int) (answer, []given, error) {
	page, err := l.managed.List(ctx, destination, after, most)
	if err != nil {
		return answer{}, nil, err
	}
	if len(page) == 0 {
		return answer{}, nil, store.ErrEmpty
	}
	listed, all := make([]wire.Listed, len(page)), make([]given, len(page))
	for i, entry := range page {
		listed[i] = wire.Listed{
			EntryID: entry.ID, Origin: entry.Origin, TransactionID: entry.TransactionID,
			Digest: [32]byte(entry.Digest), Bytes: entry.Size,
		}
	}
	body, err := wire.MakeList(listed)
	if err != nil {
		return answer{}, nil, err
	}
	for i := range all {
		all[i] = given{page[i].ID, len(body) / len(page)}
	}
	return answer{pieces: [][]byte{body}}, all, nil
}

// wanted returns the entries with these IDs, which are in order, as far as they are there
// and as many as have so many bytes together, but always the first; or store.ErrEmpty.
func (l *lists) wanted(ctx context.Context, destination spec.ServerName, ids []int64, most int, bytes int64) (found []store.Entry, err error) {
	for _, id := range ids {
		if len(found) == most {
			break
		}
		page, err := l.managed.List(ctx, destination, id-1, 1)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			break
		}
		if page[0].ID != id {
			continue
		}
		if bytes -= page[0].Size; bytes < 0 && len(found) > 0 {
			break
		}
		entry, err := l.mail.Next(ctx, destination, id-1, 1, 1)
		if err != nil && !errors.Is(err, store.ErrEmpty) {
			return nil, err
		}
		if len(entry) > 0 && entry[0].ID == id { // unless it has gone, or can't be read
			found = append(found, entry[0])
		}
	}
	if len(found) == 0 {
		return nil, store.ErrEmpty
	}
	return found, nil
}
