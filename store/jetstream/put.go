package jetstream

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/group"
	"github.com/matrixrelay/relay/store/internal/seal"
)

// orphanLooks is how often mail must be found in no mailbox to be taken for an
// orphan: it isn't read at the same moment as the mailbox.
const orphanLooks = 4

// A putJob stores mail. Stored and refused are its outcome.
type putJob struct {
	mail    store.Mail
	key     seal.Key
	origin  originHash
	nonce   nonce
	limits  store.Limits
	stored  bool
	looks   int  // how often the mail was there, but in no mailbox,
	orphan  bool // and that it was put anew then
	refused error
}

func newPutJob(mail store.Mail, limits store.Limits) (*putJob, error) {
	if err := mail.Check(); err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	p := &putJob{mail: mail, limits: limits, key: seal.KeyOf(&mail), origin: hashOrigin(mail.Origin)}
	_, _ = rand.Read(p.nonce[:]) // it never fails
	return p, nil
}

func (p *putJob) run(b *batch) error {
	p.stored, p.refused = false, nil // it may run again
	x, err := b.box(p.mail.Destination)
	share, err2 := b.share(p.mail.Destination, p.origin)
	known, seq, err3 := p.isKnown(b, x)
	if err := cmp.Or(err, err2, err3); err != nil || known {
		return err
	}
	if seq != 0 && p.looks < orphanLooks {
		p.looks++
		return errUnsure
	}
	fits, room := p.fits(x.value, share.value), p.admits(b)
	switch {
	case fits && room == nil:
		return p.store(b, x, share, seq)
	case b.care < careful:
		return errUnsure
	case !fits:
		room = store.ErrFull
	case b.unsettled: // a batch that was tried before may find the room that this one doesn't
		return errors.New("jetstream: an answer was lost, and now there is no room: " + room.Error()) // not ErrFull: it may be stored
	}
	p.refused = fmt.Errorf("jetstream: mail from %s for %s: %w", p.mail.Origin, p.mail.Destination, room)
	return nil
}

// isKnown reports whether the mail is a copy, as far as can be told without
// reading: if it is one after all, the commit fails, and is then done with care.
//
// Mail that no mailbox has is no copy: a replica that is alone in a cluster may
// keep the beginning of a batch only. Seq is that of the message that is replaced then.
func (p *putJob) isKnown(b *batch, x *record[box]) (known bool, seq uint64, err error) {
	if _, ok := b.keys[p.key]; ok || b.care < careful {
		return ok, 0, nil
	}
	m, err := b.message(b.subjects.mail(p.key), false)
	if err != nil || m.seq == 0 || x == nil {
		return false, 0, err
	}
	by, place, err := putBy(m.data)
	if err != nil { // it's gone, or damaged
		return true, 0, nil
	}
	entry, _, err := b.meta(p.mail.Destination, x, place)
	if err == nil && entry != nil && entry.key == p.key && entry.state != gone {
		p.stored = by == p.nonce
		return true, 0, nil
	}
	return false, m.seq, err
}

func (p *putJob) store(b *batch, r *record[box], share *record[counts], seq uint64) error {
	if err := b.nextID(p, r); err != nil {
		return err
	}
	x := r.value
	m := meta{key: p.key, origin: p.origin, size: p.mail.Size(), expires: expiresAt(b.now, p.mail.Lifetime)}
	messages, err := messagesOf(&p.mail, x.next(), m.expires, p.nonce, b.engine.maxMessage())
	if err != nil {
		return err
	}
	m.parts = int64(len(messages) - 1)
	if len(x.tail) == pageSize {
		if err := b.spill(p.mail.Destination, x); err != nil {
			return err
		}
	}
	x.tail = append(x.tail, m)
	if m.expires != 0 && (x.soonest == 0 || m.expires < x.soonest) {
		x.soonest = m.expires
	}
	b.count(p.mail.Destination, r, share, 1, m.size)
	b.send(outgoing{subject: b.subjects.mail(p.key), data: messages[0], checked: true, seq: seq})
	for i, part := range messages[1:] {
		b.send(outgoing{subject: b.subjects.part(p.key, int64(i+1)), data: part})
	}
	b.keys[p.key] = struct{}{}
	p.stored, p.orphan = true, seq != 0
	return nil
}

// spill makes a page of the entries that the record of a mailbox lists. The page isn't
// there yet, unless a batch was stored in part; then it is replaced.
func (b *batch) spill(destination spec.ServerName, x *box) error {
	subject, p := b.subjects.page(destination, x.base), &record[page]{changed: true}
	if b.care == careful {
		before, err := b.message(subject, false)
		if err != nil {
			return err
		}
		p.seq = before.seq
	}
	full := x.tail
	p.value, x.base, x.tail = &full, x.next(), nil
	b.records[subject] = p
	return nil
}

// fits reports whether the mailbox and the origin's share of it have room.
func (p *putJob) fits(x *box, share *counts) bool {
	size, l := p.mail.Size(), p.limits
	return within(l.Entries, x.entries, 1) && within(l.Bytes, x.bytes, size) &&
		within(l.OriginEntries, share.entries, 1) && within(l.OriginBytes, share.bytes, size)
}

func within(limit, have, more int64) bool { return limit <= 0 || have+more <= limit }

// admits returns an error if the store has no room for the mail, as far as this
// process knows.
func (p *putJob) admits(b *batch) error {
	l, size := p.limits, p.mail.Size()
	held, _ := b.cache.whole(p.mail.Destination)
	held = held.plus(*b.change.of(p.mail.Destination))
	if !within(l.StoreEntries, held.entries, 1) || !within(l.StoreBytes, held.bytes, size) {
		return store.ErrFull
	}
	return b.fits(size)
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, mail store.Mail, limits store.Limits) (stored bool, err error) {
	put, err := newPutJob(mail, limits)
	if err != nil {
		return false, err
	}
	err = s.putAll(ctx, []*putJob{put})
	return err == nil && put.stored, err
}

var _ store.Batches = (*Store)(nil)

// PutAll implements store.Batches. It takes as many commits as the mails need
// messages for. After an error the first of them may be stored.
func (s *Store) PutAll(ctx context.Context, mails []store.Mail) error {
	var puts []*putJob
	for _, mail := range mails {
		put, err := newPutJob(mail, store.Limits{})
		if err != nil {
			return err
		}
		puts = append(puts, put)
	}
	return s.putAll(ctx, puts)
}

func (s *Store) putAll(ctx context.Context, puts []*putJob) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	for swept := false; len(puts) > 0; {
		n, size := 0, int64(0)
		for n < min(len(puts), group.MaxJobs) && size < group.MaxBytes {
			size += puts[n].mail.Size()
			n++
		}
		step := rowJob{puts: puts[:n]}
		if err := s.change(ctx, puts[0].mail.Destination, step.run, size); err != nil {
			return err
		}
		for _, p := range puts[:step.done] {
			if p.orphan {
				s.options.Logger.Warn("jetstream: mail was found in the stream, but in no mailbox, and is put anew",
					"destination", p.mail.Destination, "transaction", p.mail.TransactionID)
			}
		}
		if puts = puts[step.done:]; step.failed != nil {
			if swept || !s.makeRoom(ctx, step.failed) {
				return step.failed
			}
			swept = true
		}
	}
	return nil
}

// A rowJob puts mails one after the other, until one fails or the batch is full.
type rowJob struct {
	puts   []*putJob
	done   int
	failed error // of the one after those
}

func (r *rowJob) run(b *batch) error {
	r.done, r.failed = 0, nil // it may run again
	before, missing := b.size(), error(nil)
	for i, p := range r.puts {
		if i > 0 && b.size()-before+p.messages(b) > b.maxMessages {
			break
		}
		err, bad := p.run(b), (*badPage)(nil)
		switch {
		case errors.Is(err, errMissing):
			missing = err
		case errors.Is(err, errUnsure), errors.As(err, &bad):
			return err
		case err != nil || p.refused != nil: // those before it can be stored all the same
			r.failed = cmp.Or(err, p.refused)
			return missing
		}
		r.done++
	}
	return missing
}

// messages is how many a batch has more with the mail, at most.
func (p *putJob) messages(b *batch) int { return 5 + int(p.mail.Size())/b.engine.maxMessage() }
