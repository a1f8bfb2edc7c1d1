package jetstream

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
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
	for _, err := range []error{err, err2, err3} {
		if err != nil {
			return err
		}
	}
	if known {
		return nil
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
// keep the beginning of a batch only. Seq is what it's replaced at.
func (p *putJob) isKnown(b *batch, x *record[box]) (known bool, seq uint64, err error) {
	if _, ok := b.keys[p.key]; ok {
		return true, 0, nil
	}
	if b.care < careful {
		return false, 0, nil
	}
	m, err := b.message(b.subjects.mail(p.key), false)
	if err != nil || m.seq == 0 || x == nil {
		return false, 0, err
	}
	by, place, err := putBy(m.data)
	if err != nil { // it's gone, or damaged
		return true, 0, nil
	}
	if x.value != nil {
		entry, _, err := b.meta(p.mail.Destination, x, place)
		if err != nil {
			return false, 0, err
		}
		if entry != nil && entry.key == p.key && entry.state != gone {
			p.stored = by == p.nonce
			return true, 0, nil
		}
	}
	return false, m.seq, nil
}

func (p *putJob) store(b *batch, x *record[box], share *record[counts], seq uint64) error {
	if err := b.nextID(p, x); err != nil {
		return err
	}
	m := meta{key: p.key, origin: p.origin, size: p.mail.Size(), expires: expiresAt(b.now, p.mail.Lifetime)}
	messages, err := messagesOf(&p.mail, x.value.next(), m.expires, p.nonce, b.maxMessage)
	if err != nil {
		return err
	}
	m.parts = int64(len(messages) - 1)
	if err := b.add(p.mail.Destination, x.value, m); err != nil {
		return err
	}
	b.count(p.mail.Destination, x, share, 1, m.size)
	b.send(outgoing{subject: b.subjects.mail(p.key), data: messages[0], checked: true, seq: seq})
	for i, part := range messages[1:] {
		b.send(outgoing{subject: b.subjects.part(p.key, int64(i+1)), data: part})
	}
	b.keys[p.key] = struct{}{}
	p.stored, p.orphan = true, seq != 0
	return nil
}

// fits reports whether the mailbox and the origin's share of it have room.
func (p *putJob) fits(x *box, share *counts) bool {
	var mailbox counts
	if x != nil {
		mailbox = x.counts
	}
	size, l := p.mail.Size(), p.limits
	return within(l.Entries, mailbox.entries, 1) && within(l.Bytes, mailbox.bytes, size) &&
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

// add gives an entry the next place of its mailbox.
func (b *batch) add(destination spec.ServerName, x *box, m meta) error {
	if len(x.tail) == pageSize {
		if err := b.spill(destination, x); err != nil {
			return err
		}
	}
	x.tail = append(x.tail, m)
	if m.expires != 0 && (x.soonest == 0 || m.expires < x.soonest) {
		x.soonest = m.expires
	}
	return nil
}

// spill makes a page of what the record of a mailbox lists. There is none yet,
// unless a batch was stored in part; whatever that left is replaced.
func (b *batch) spill(destination spec.ServerName, x *box) error {
	page := &record[[]meta]{}
	if b.care == careful {
		before, err := b.message(b.subjects.page(destination, x.base), false)
		if err != nil {
			return err
		}
		page.seq = before.seq
	}
	full := x.tail
	page.value, page.changed = &full, true
	b.pages[b.subjects.page(destination, x.base)] = page
	x.base, x.tail = x.next(), nil
	return nil
}
