package jetstream

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
	"github.com/matrixrelay/relay/store/internal/upkeep"
)

var _ store.Managed = (*Store)(nil)

// List implements store.Managed. A mailbox doesn't say where mail is from, so the first
// message of each mail is read.
func (s *Store) List(ctx context.Context, destination spec.ServerName, after int64, limit int) (page []store.Listed, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		items, err := s.list(ctx, query{destination: destination, after: max(after, 0), entries: max(limit, 1), bytes: math.MaxInt64})
		if err != nil {
			return err
		}
		page = make([]store.Listed, len(items))
		keys, now := make([]seal.Key, len(items)), s.cache.clock.Now()
		for i, it := range items {
			keys[i] = it.key
			page[i] = store.Listed{ID: it.id, Size: it.size, Lifetime: lifetimeLeft(now, it.expires)}
		}
		heads, err := s.heads(ctx, keys)
		for i, h := range heads {
			l := &page[i]
			l.Origin, l.TransactionID, l.Digest, l.Proven = h.mail.Origin, h.mail.TransactionID, h.mail.Digest, h.proofBytes > 0
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

// heads reads the heads of mails; one that can't be read is zero.
func (s *Store) heads(ctx context.Context, keys []seal.Key) ([]head, error) {
	names, heads := make([]string, len(keys)), make([]head, len(keys))
	for i, key := range keys {
		names[i] = s.cache.subjects.mail(key)
	}
	messages, err := s.engine.lastEach(ctx, names, s.engine.findHead)
	for i, m := range messages {
		h := head{}
		if _, err := decodeSome(m.data, &h); err == nil && seal.KeyOf(&h.mail) == keys[i] {
			heads[i] = h
		}
	}
	return heads, err
}

// findHead is find for the first message of mail, of which it keeps the head alone: the
// messages of a page of large mail would take half a gigabyte.
func (e *engine) findHead(ctx context.Context, subject string) (message, error) {
	m, err := e.find(ctx, subject)
	content, headErr := decodeSome(m.data, &head{})
	if headErr != nil {
		return message{seq: m.seq}, err
	}
	m.data = bytes.Clone(m.data[:len(m.data)-len(content)])
	return m, err
}

// Recipients implements store.Managed. It asks the leader which mailboxes have a share of
// the origin, and for those shares, as one may be of nothing by now.
func (s *Store) Recipients(ctx context.Context, origin, after spec.ServerName, limit int) (names []spec.ServerName, err error) {
	names, limit = []spec.ServerName{}, max(limit, 1)
	share := func(of spec.ServerName) string { return s.cache.subjects.share(of, hashOrigin(origin)) }
	err = s.read(ctx, func(ctx context.Context) error {
		has, err := s.engine.matching(ctx, s.cache.subjects.sharesOf(hashOrigin(origin)))
		if err != nil {
			return err
		}
		for boxes := s.cache.destinations(after, listAtOnce); len(boxes) > 0; boxes = s.cache.destinations(after, listAtOnce) {
			after = boxes[len(boxes)-1]
			boxes = slices.DeleteFunc(boxes, func(name spec.ServerName) bool { return has[share(name)] == 0 })
			for some := range slices.Chunk(boxes, maxReads) {
				found, err := s.sharing(ctx, some, share)
				if names = append(names, found...); err != nil || len(names) >= limit {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return names[:min(len(names), limit)], nil
}

// matching returns the subjects that match a pattern, and how many messages each has.
func (e *engine) matching(ctx context.Context, pattern string) (subjects map[string]uint64, err error) {
	err = e.retry(ctx, func(ctx context.Context) error {
		stream, err := e.js.Stream(ctx, e.stream)
		if err != nil {
			return err
		}
		info, err := stream.Info(ctx, jetstream.WithSubjectFilter(pattern))
		if err == nil {
			subjects = info.State.Subjects
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("jetstream: list %s: %w", pattern, err)
	}
	return subjects, nil
}

// sharing returns those mailboxes whose share, which has that subject, isn't of nothing.
func (s *Store) sharing(ctx context.Context, boxes []spec.ServerName, subject func(spec.ServerName) string) (found []spec.ServerName, err error) {
	subjects := make([]string, len(boxes))
	for i, name := range boxes {
		subjects[i] = subject(name)
	}
	shares, err := s.engine.lastEach(ctx, subjects, s.engine.last)
	for i, m := range shares {
		if share := (counts{}); len(m.data) > 0 && decode(m.data, &share) == nil && share.entries > 0 {
			found = append(found, boxes[i])
		}
	}
	return found, err
}

// Remove implements store.Managed, in steps with other writes in between.
func (s *Store) Remove(ctx context.Context, destination spec.ServerName, ids []int64) (removed int, err error) {
	ids = slices.Sorted(slices.Values(ids)) // it may be read after an early return, too
	return upkeep.Steps(func() (int, bool, error) {
		step := removeJob{destination: destination, ids: ids[:min(len(ids), removeStep)]}
		if err := s.change(ctx, destination, step.run, 0); err != nil { // it may run yet
			return 0, false, err
		}
		ids = ids[step.done:]
		return step.removed, len(ids) > 0, nil
	})
}

// A removeJob removes entries wherever they are in a mailbox: the first of these IDs, as
// many as one batch has room for.
type removeJob struct {
	destination   spec.ServerName
	ids           []int64
	done, removed int
}

func (j *removeJob) run(b *batch) error {
	j.done, j.removed = 0, 0 // it may run again
	x, err := b.box(j.destination)
	if err != nil {
		return err
	}
	at := make([]int64, len(j.ids))
	for i, id := range j.ids {
		if place := x.value.placeOf(id); x.value.idAt(place) == id {
			at[i] = place // else 0, where nothing is
		}
	}
	looked, removed, err := b.remove(j.destination, x, slices.Values(at), func(m *meta) bool { return m.state == live })
	if err == nil && removed == 0 {
		err = b.sure(j.destination, x)
	}
	j.done, j.removed = int(looked), removed
	return err
}
