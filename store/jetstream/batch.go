package jetstream

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store/internal/seal"
)

// How much of the stream a batch is built on as the leader has it just now, and
// not as the cache has it.
type care int

const (
	trusting care = iota // nothing that the cache has
	fresh                // all records
	careful              // and whether mail is a copy, before it is put
)

var (
	// errMissing says that a job needs something that has to be read first.
	errMissing = errors.New("not read yet")

	// errUnsure says that a job needs a batch that is careful, or another one.
	errUnsure = errors.New("the records that are known aren't enough, or don't fit together")
)

// A batch is a commit under way: everything that its jobs have read, and their changes.
// It is built without waiting: messages that are missing are noted and read, and then
// the jobs run again, on a new batch if they have changed something.
type batch struct {
	*writer
	care    care
	read    map[string]message // from the leader, for this commit
	missing map[string]struct{}
	now     int64 // on the clock of the store
	wall    time.Time
	first   int64 // no entry gets a smaller ID

	unsettled bool // the job that runs may be stored yet by an earlier batch

	change  halves // of the counts of the store
	records map[string]anyRecord
	keys    map[seal.Key]struct{} // of the mail that is put or removed
	out     []outgoing            // all that isn't a record
}

// A record is one that was read, and whether it was changed.
type record[T any] struct {
	seq     uint64
	value   *T
	changed bool
}

// A content is the content of a record. It lasts for some time if it says no more
// than a missing record would, and else for ever, which is 0.
type content interface {
	form
	lasts() time.Duration
}

type anyRecord interface{ message(subject string) outgoing }

// message returns the message that replaces the record, which is zero if the record
// wasn't changed.
func (r *record[T]) message(subject string) outgoing {
	if !r.changed {
		return outgoing{}
	}
	value := any(r.value).(content)
	return outgoing{subject: subject, data: encode(value), ttl: value.lasts(), checked: true, seq: r.seq}
}

func newBatch(w *writer, c care, read map[string]message, now int64, wall time.Time) *batch {
	return &batch{
		writer: w, care: c, read: read, missing: make(map[string]struct{}), now: now, wall: wall, first: w.first.Load(),
		records: make(map[string]anyRecord), keys: make(map[seal.Key]struct{}),
	}
}

// message returns the message of a subject.
func (b *batch) message(subject string, cached bool) (message, error) {
	if m, ok := b.read[subject]; ok {
		return m, nil
	}
	if cached && b.care == trusting {
		if m, ok := b.cache.get(subject); ok {
			return m, nil
		}
	}
	b.missing[subject] = struct{}{}
	return message{}, errMissing
}

// sure is for a job that finds nothing to do in a mailbox: the cache alone mustn't
// decide that. If a server has less than this process knows of, since the server was
// cut off or the stream was set back or purged, the batch writes the record as it is:
// the leader accepts that only if it has no more either.
func (b *batch) sure(destination spec.ServerName, x *record[box]) error {
	if b.care == trusting {
		return errUnsure
	}
	if known, _ := b.cache.summary(destination); x.seq < known.seq {
		if x.value.start == 0 {
			*x.value = newBox(known.next)
		}
		x.changed = true
	}
	return nil
}

// load reads a record once and keeps it for the rest of the batch. If there is
// none its value is zero.
func load[T any](b *batch, subject string, cached bool) (*record[T], error) {
	if r, ok := b.records[subject]; ok {
		return r.(*record[T]), nil
	}
	m, err := b.message(subject, cached)
	if err != nil {
		return nil, err
	}
	r := &record[T]{seq: m.seq, value: new(T)}
	if len(m.data) > 0 {
		if err := decode(m.data, any(r.value).(content)); err != nil {
			return r, fmt.Errorf("jetstream: %s: %w", subject, err)
		}
	}
	b.records[subject] = r
	return r, nil
}

// loadAnyway is for a record without which things go on: if it can't be read it
// is made anew.
func loadAnyway[T any](b *batch, subject string) (*record[T], error) {
	r, err := load[T](b, subject, true)
	if errors.Is(err, errCodec) {
		*r.value = *new(T)
		b.records[subject] = r
		return r, nil
	}
	return r, err
}

func (b *batch) box(destination spec.ServerName) (*record[box], error) {
	return load[box](b, b.subjects.box(destination), true)
}

// share is only there for a limit, which mustn't block the mailbox.
func (b *batch) share(destination spec.ServerName, origin originHash) (*record[counts], error) {
	return loadAnyway[counts](b, b.subjects.share(destination, origin))
}

// page returns a page of a mailbox. Pages aren't cached: one that is older than the
// record of the mailbox would go unnoticed.
func (b *batch) page(destination spec.ServerName, first int64) (*record[page], error) {
	subject := b.subjects.page(destination, first)
	p, err := load[page](b, subject, false)
	if errors.Is(err, errCodec) {
		return nil, &badPage{subject, errCodec}
	}
	return p, err
}

// meta returns the facts that a mailbox has of the entry at a place, nil if there is none.
// Code that changes it sets changed, which marks its record as changed.
func (b *batch) meta(destination spec.ServerName, r *record[box], place int64) (m *meta, changed *bool, err error) {
	x := r.value
	if place <= x.mark || place >= x.next() {
		return nil, nil, nil
	}
	if place >= x.base {
		return &x.tail[place-x.base], &r.changed, nil
	}
	first := x.pageOf(place)
	p, err := b.page(destination, first)
	switch {
	case err != nil:
		return nil, nil, err
	case len(*p.value) != pageSize: // it was dropped since, or the server is behind
		bad := &badPage{b.subjects.page(destination, first), errNoPage}
		return nil, nil, cmp.Or(b.sure(destination, r), error(bad))
	}
	return &(*p.value)[place-first], &p.changed, nil
}

// needMetas makes sure that all pages that list these places are read.
func (b *batch) needMetas(destination spec.ServerName, x *record[box], from, to int64) (err error) {
	for place := from; place <= to && place < x.value.base; place = x.value.pageOf(place) + pageSize {
		if _, _, e := b.meta(destination, x, place); e != nil {
			err = e
		}
	}
	return err
}

// count adds to the mailbox, the origin's share of it and the whole store.
func (b *batch) count(of spec.ServerName, x *record[box], share *record[counts], entries, bytes int64) {
	more := counts{entries: entries, bytes: bytes}
	x.value.counts, *share.value = x.value.plus(more).positive(), share.value.plus(more).positive()
	change := b.change.of(of)
	*change = change.plus(more)
	x.changed, share.changed = true, true
}

// send adds a message that isn't a record.
func (b *batch) send(o outgoing) { b.out = append(b.out, o) }

// vanish removes the message of a subject: it's replaced by an empty one, which is
// itself removed after that time.
func (b *batch) vanish(subject string, after time.Duration) {
	b.send(outgoing{subject: subject, ttl: lastsFor(after)})
}

// lastsFor is how long a message lasts: a server knows no less than a second.
func lastsFor(after time.Duration) time.Duration { return max(after, time.Second) }

// size is about how many messages the batch has.
func (b *batch) size() int { return len(b.out) + len(b.records) }

// messages returns all that the batch changes. There is a record among it that
// the batch and its repetition both write, so only one of them can succeed.
func (b *batch) messages() []outgoing {
	out := b.out
	for subject, r := range b.records {
		if o := r.message(subject); o.subject != "" {
			out = append(out, o)
		}
	}
	return out
}
