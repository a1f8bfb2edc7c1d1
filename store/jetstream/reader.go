package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
)

// A reader reads mailboxes: the record of a mailbox from the leader of the
// stream, and what it lists from wherever it is.
//
// A server that was cut off may answer as the leader that it was, with what it
// had. So nothing is taken to be gone because one didn't have it: a record that is
// older than this process knows is read again, and so is a mailbox of which a page
// is missing that it should have. If that stays so, a commit finds out whether the
// leader has no more: see mendJob.
type reader struct {
	engine   *engine
	subjects subjects
	cache    *cache
}

var (
	errBehind = errors.New("the servers have less than they had before")
	errNoPage = errors.New("a part of the mailbox is missing")
)

// box reads the record of a mailbox; it is nil if there is none.
func (r *reader) box(ctx context.Context, destination spec.ServerName) (b *box, seq uint64, err error) {
	subject, m := r.subjects.box(destination), message{}
	err = r.untilSure(ctx, errBehind, func() error {
		known, _ := r.cache.summary(destination)
		if m, err = r.engine.last(ctx, subject); err == nil && m.seq < known.seq {
			return &badPage{subject, errBehind}
		}
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	b, err = decodeBox(m.data)
	if err != nil {
		return nil, 0, fmt.Errorf("jetstream: %s: %w", subject, err)
	}
	return b, m.seq, nil
}

// behindPatience is how long a server may have less than this process knows of, before
// mending finds out whether the leader has it.
const behindPatience = time.Second

// untilSure repeats what has failed with unsure, for as long as a server may
// believe that it's the leader.
func (r *reader) untilSure(ctx context.Context, unsure error, try func() error) error {
	end := time.Now().Add(min(r.engine.timeout, behindPatience))
	for attempt := 0; ; attempt++ {
		err := try()
		if !errors.Is(err, unsure) || time.Now().After(end) {
			return err
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// An item is an entry as its mailbox lists it.
type item struct {
	place, id int64
	meta
}

// each calls do for the entries of a mailbox from a place on, in their order,
// until it returns false. It reads more pages at once the longer it goes on.
// After errNoPage, do was called for some entries, and the record of the mailbox
// has to be read anew.
func (r *reader) each(ctx context.Context, destination spec.ServerName, b *box, from int64, do func(item) bool) error {
	place := max(from, b.mark+1)
	for atOnce := 1; place < b.base; atOnce = min(2*atOnce, maxReads) {
		var names []string
		for first := b.pageOf(place); first < b.base && len(names) < atOnce; first += pageSize {
			names = append(names, r.subjects.page(destination, first))
		}
		pages, err := r.engine.lastEach(ctx, names, r.engine.find)
		if err != nil {
			return err
		}
		for i := range pages {
			metas, err := r.pageOf(ctx, names[i], pages[i])
			if err != nil {
				return err
			}
			first := b.pageOf(place)
			for ; place < first+pageSize; place++ {
				if !do(item{place, b.idAt(place), metas[place-first]}) {
					return nil
				}
			}
		}
	}
	for ; place < b.next(); place++ {
		if !do(item{place, b.idAt(place), b.tail[place-b.base]}) {
			return nil
		}
	}
	return nil
}

// pageOf returns what a page lists that was read from any server, or what the
// leader has if that is no good.
func (r *reader) pageOf(ctx context.Context, subject string, m message) (metas []meta, err error) {
	if metas, err = decodePage(m.data); err != nil {
		if m, err = r.engine.last(ctx, subject); err != nil {
			return nil, err
		}
		metas, err = decodePage(m.data)
	}
	switch {
	case err != nil:
		return nil, &badPage{subject, err}
	case len(metas) != pageSize: // it was dropped since, or the server is behind
		return nil, &badPage{subject, errNoPage}
	}
	return metas, nil
}

// A query is what Next was asked for.
type query struct {
	destination spec.ServerName
	after       int64
	entries     int
	bytes       int64
	sure        bool // the mail is read from the leader, too
}

// list returns the entries that answer a query, without their mail.
func (r *reader) list(ctx context.Context, q query) (items []item, err error) {
	err = r.untilSure(ctx, errNoPage, func() error {
		b, _, err := r.box(ctx, q.destination)
		items = nil
		if err != nil || b == nil {
			return err
		}
		at, size := r.cache.clock.Now(), int64(0)
		return r.each(ctx, q.destination, b, b.placeOf(q.after)+1, func(i item) bool {
			if i.state != live || i.expired(at) {
				return true
			}
			if size += i.size; len(items) > 0 && size > q.bytes {
				return false
			}
			items = append(items, i)
			return len(items) < q.entries
		})
	})
	return items, err
}

// damage is an entry that can't be read.
type damage struct {
	item
	err error
}

// next returns the entries that answer a query, and those among them that can't
// be read. It returns store.ErrEmpty if there are neither.
func (r *reader) next(ctx context.Context, q query) (entries []store.Entry, damaged []damage, err error) {
	items, err := r.list(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	if len(items) == 0 {
		return nil, nil, store.ErrEmpty
	}
	mails, errs, err := r.mails(ctx, items, q.sure)
	if err != nil {
		return nil, nil, err
	}
	for i := range items {
		if errs[i] != nil {
			damaged = append(damaged, damage{items[i], errs[i]})
			continue
		}
		mails[i].Lifetime = lifetimeLeft(r.cache.clock.Now(), items[i].expires)
		entries = append(entries, store.Entry{ID: items[i].id, Mail: *mails[i]})
	}
	return entries, damaged, nil
}

// mails reads the mail of entries. Each has an error of its own if it isn't
// what it should be, and err is that of reading at all.
func (r *reader) mails(ctx context.Context, items []item, sure bool) (mails []*store.Mail, errs []error, err error) {
	var names []string
	for _, i := range items {
		names = append(names, r.subjects.messages(i)...)
	}
	read := r.engine.find
	if sure {
		read = r.engine.last
	}
	messages, err := r.engine.lastEach(ctx, names, read)
	if err != nil {
		return nil, nil, err
	}
	mails, errs = make([]*store.Mail, len(items)), make([]error, len(items))
	for i, item := range items {
		n := 1 + int(item.parts)
		mails[i], errs[i] = check(item, messages[:n])
		messages = messages[n:]
	}
	return mails, errs, nil
}

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
// not. It doesn't ask the server about a mailbox of which nothing is known: who
// waits is woken when it is.
func (r *reader) any(ctx context.Context, destination spec.ServerName, after int64) error {
	s, ok := r.cache.summary(destination)
	if !ok || s.next-1 <= after {
		return store.ErrEmpty
	}
	items, err := r.list(ctx, query{destination: destination, after: after, entries: 1})
	if err == nil && len(items) == 0 {
		return store.ErrEmpty
	}
	return err
}

// usage reads what a mailbox, or without a destination the whole store, holds.
func (r *reader) usage(ctx context.Context, destination spec.ServerName) (store.Usage, error) {
	if destination == "" || destination == store.PrivateHalf {
		held, _ := r.cache.whole(destination)
		return held.usage(), nil
	}
	b, _, err := r.box(ctx, destination)
	if err != nil || b == nil {
		return store.Usage{}, err
	}
	return b.usage(), nil
}
