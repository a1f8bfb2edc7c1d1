package jetstream

import (
	"context"
	"errors"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
)

// A server that was cut off may answer as the leader that it was, with the messages
// that it had. So nothing is taken to be gone because one server didn't have it: see
// mending.
var (
	errBehind = errors.New("the servers have less than they had before")
	errNoPage = errors.New("a part of the mailbox is missing")
)

// view has a job read a mailbox: its record as the leader of the stream has it, and
// pages from any server. The job runs until everything that it needs is read.
func (s *Store) view(ctx context.Context, destination spec.ServerName, job func(*batch, *record[box]) error) error {
	subject, pages := s.cache.subjects.box(destination), s.engine.find
	return s.mending(ctx, destination, func() error {
		known, _ := s.cache.summary(destination)
		b := newBatch(s.writer, fresh, make(map[string]message), s.cache.clock.Now(), time.Time{})
		for read := s.engine.last; ; read = pages {
			x, err := b.box(destination)
			switch {
			case err == nil && x.seq < known.seq:
				return &badPage{subject, errBehind}
			case err == nil:
				err = job(b, x)
			}
			if !errors.Is(err, errMissing) {
				pages = s.engine.last // if it's repeated: that server may have gone bad
				return err
			}
			if err := s.writer.readMissing(ctx, b, read); err != nil {
				return err
			}
		}
	})
}

// An item is an entry as its mailbox lists it.
type item struct {
	place, id int64
	meta
}

// A query is one call of Next.
type query struct {
	destination spec.ServerName
	after       int64
	entries     int
	bytes       int64
	sure        bool // the mail is read from the leader, too
}

// list returns the entries that answer a query, without their mail. It reads more
// pages at once the longer it goes on.
func (s *Store) list(ctx context.Context, q query) (items []item, err error) {
	err = s.view(ctx, q.destination, func(b *batch, r *record[box]) error {
		x, size := r.value, int64(0)
		items = nil
		for place := max(x.placeOf(q.after), x.mark) + 1; place < x.next() && len(items) < q.entries; place++ {
			m, _, err := b.meta(q.destination, r, place)
			if errors.Is(err, errMissing) {
				return b.needMetas(q.destination, r, place, place+int64(min(len(b.read), maxReads)-1)*pageSize)
			}
			if err != nil {
				return err
			}
			if m.state != live || m.expired(b.now) {
				continue
			}
			if size += m.size; len(items) > 0 && size > q.bytes {
				return nil
			}
			items = append(items, item{place, x.idAt(place), *m})
		}
		return nil
	})
	return items, err
}

// damage is an entry that can't be read.
type damage struct {
	item
	err error
}

// readMail returns the entries that answer a query, and those among them that can't
// be read. It returns store.ErrEmpty if there are neither.
func (s *Store) readMail(ctx context.Context, q query) (entries []store.Entry, damaged []damage, err error) {
	items, err := s.list(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	if len(items) == 0 {
		return nil, nil, store.ErrEmpty
	}
	var names []string
	for _, i := range items {
		names = append(names, s.cache.subjects.messages(i)...)
	}
	from := s.engine.find
	if q.sure {
		from = s.engine.last
	}
	messages, err := s.engine.lastEach(ctx, names, from)
	if err != nil {
		return nil, nil, err
	}
	now := s.cache.clock.Now()
	for _, i := range items {
		mail, err := check(i, messages[:1+i.parts])
		messages = messages[1+i.parts:]
		if err != nil {
			damaged = append(damaged, damage{i, err})
			continue
		}
		mail.Lifetime = lifetimeLeft(now, i.expires)
		entries = append(entries, store.Entry{ID: i.id, Mail: *mail})
	}
	return entries, damaged, nil
}

// check returns the mail that is in the messages of an entry, or an error if it
// isn't the mail that was put.
func check(i item, messages []message) (*store.Mail, error) {
	var data [][]byte
	for _, m := range messages {
		data = append(data, m.data)
	}
	mail, err := mailOf(data)
	if err == nil && seal.KeyOf(mail) != i.key {
		err = errDamaged
	}
	return mail, err
}

// any returns nil if the destination has an entry after that ID, ErrEmpty if
// not. It doesn't ask the server about a mailbox of which nothing is known: those
// that wait are woken when it is.
func (s *Store) any(ctx context.Context, destination spec.ServerName, after int64) error {
	known, ok := s.cache.summary(destination)
	if !ok || known.next-1 <= after {
		return store.ErrEmpty
	}
	items, err := s.list(ctx, query{destination: destination, after: after, entries: 1})
	if err == nil && len(items) == 0 {
		return store.ErrEmpty
	}
	return err
}
