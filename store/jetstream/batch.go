package jetstream

import (
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
	errUnsure = errors.New("what is known isn't enough, or doesn't fit together")
)

// emptyFor is how long the record of an empty mailbox is kept, and that of a
// share of nothing. Others learn within that time that there is nothing left.
const emptyFor = 24 * time.Hour

// A batch is a commit under way: what its jobs have read and what they change.
// It is built without waiting; what is missing is noted, read, and then the
// jobs run again on a new one.
type batch struct {
	subjects    subjects
	care        care
	cache       *cache
	read        map[string]message // from the leader, for this commit
	missing     map[string]struct{}
	maxMessage  int // bytes of one
	maxMessages int // of a batch
	room        room
	retention   time.Duration
	now         int64 // on the clock of the store
	wall        time.Time
	first       int64 // no entry gets a smaller ID

	unsettled bool // the job that runs may be stored yet by an earlier batch

	change halves            // of what the store holds
	noted  *record[struct{}] // nil: the batch sets no notes
	boxes  map[spec.ServerName]*record[box]
	shares map[string]*record[counts]
	pages  map[string]*record[[]meta]
	keys   map[seal.Key]struct{} // of the mail that is put or removed
	out    []outgoing            // all that isn't a record
}

// A record is one that was read, and whether it was changed.
type record[T any] struct {
	seq     uint64
	value   *T
	changed bool
}

func newBatch(w *writer, c care, read map[string]message, now int64, wall time.Time) *batch {
	return &batch{
		subjects: w.subjects, care: c, cache: w.cache, read: read, missing: make(map[string]struct{}),
		maxMessage: w.engine.maxMessage(), maxMessages: w.maxMessages, room: w.room, retention: w.options.Retention, now: now, wall: wall, first: w.first.Load(),
		boxes: make(map[spec.ServerName]*record[box]), shares: make(map[string]*record[counts]),
		pages: make(map[string]*record[[]meta]), keys: make(map[seal.Key]struct{}),
	}
}

// message returns what a subject has.
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

// sure is for a job that finds nothing to do in a mailbox: that mustn't be said
// for what the cache has. If a server has less than this process knows of, since
// the server was cut off or the stream was set back or purged, the batch writes
// the record as it is: the leader accepts that only if it has no more either.
func (b *batch) sure(destination spec.ServerName, x *record[box]) error {
	if b.care == trusting {
		return errUnsure
	}
	if known, _ := b.cache.summary(destination); x.seq < known.seq {
		if x.value == nil {
			x.value = &box{start: known.next, mark: known.next - 1, base: known.next}
		}
		x.changed = true
	}
	return nil
}

// load reads a record once and keeps it for the rest of the batch.
func load[K comparable, T any](b *batch, kept map[K]*record[T], key K, subject string, cached bool, decode func([]byte) (*T, error)) (*record[T], error) {
	if r, ok := kept[key]; ok {
		return r, nil
	}
	m, err := b.message(subject, cached)
	if err != nil {
		return nil, err
	}
	value, err := decode(m.data)
	if err != nil {
		return nil, fmt.Errorf("jetstream: %s: %w", subject, err)
	}
	r := &record[T]{seq: m.seq, value: value}
	kept[key] = r
	return r, nil
}

// box returns the record of a mailbox; its value is nil if there is none.
func (b *batch) box(destination spec.ServerName) (*record[box], error) {
	return load(b, b.boxes, destination, b.subjects.box(destination), true, decodeBox)
}

func (b *batch) share(destination spec.ServerName, origin originHash) (*record[counts], error) {
	subject := b.subjects.share(destination, origin)
	return load(b, b.shares, subject, subject, true, func(data []byte) (*counts, error) {
		share, err := decodeShare(data)
		if err != nil { // it's only there for a limit, which mustn't block the mailbox
			return &counts{}, nil
		}
		return share, nil
	})
}

// page returns what a page lists, nil if it was dropped. Pages aren't cached:
// one that is older than the record of the mailbox would go unnoticed.
func (b *batch) page(destination spec.ServerName, first int64) (*record[[]meta], error) {
	subject := b.subjects.page(destination, first)
	return load(b, b.pages, subject, subject, false, func(data []byte) (*[]meta, error) {
		metas, err := decodePage(data)
		if err != nil {
			return nil, &badPage{subject, err}
		}
		return &metas, nil
	})
}

// meta returns what a mailbox knows of the entry at a place, nil if there is none.
// Whoever changes it marks the record as changed.
func (b *batch) meta(destination spec.ServerName, r *record[box], place int64) (m *meta, changed *bool, err error) {
	x := r.value
	if place <= x.mark || place >= x.next() {
		return nil, nil, nil
	}
	if place >= x.base {
		return &x.tail[place-x.base], &r.changed, nil
	}
	first := x.pageOf(place)
	page, err := b.page(destination, first)
	if err != nil || place-first >= int64(len(*page.value)) {
		return nil, nil, err
	}
	return &(*page.value)[place-first], &page.changed, nil
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

// vanish removes what a subject has: what replaces it is itself removed soon.
func (b *batch) vanish(subject string, after time.Duration) {
	b.send(outgoing{subject: subject, ttl: max(after, time.Second)})
}

// size is about how many messages the batch has.
func (b *batch) size() int {
	n := len(b.out) + len(b.boxes) + len(b.shares) + len(b.pages)
	if b.noted != nil {
		n++
	}
	return n
}

// messages returns all that the batch changes. There is a record among it that
// the batch and its repetition both write, so only one of them can succeed.
func (b *batch) messages() []outgoing {
	out := b.out
	for subject, p := range b.pages {
		switch {
		case !p.changed:
		case len(*p.value) == 0:
			out = append(out, outgoing{subject: subject, ttl: time.Second, checked: true, seq: p.seq})
		default:
			out = append(out, p.outgoing(subject, encodePage(*p.value), false))
		}
	}
	for subject, s := range b.shares {
		if s.changed {
			out = append(out, s.outgoing(subject, encodeShare(s.value), *s.value == counts{}))
		}
	}
	for destination, x := range b.boxes {
		if x.changed {
			out = append(out, x.outgoing(b.subjects.box(destination), x.value.encode(), x.value.holdsNothing()))
		}
	}
	if b.noted != nil {
		out = append(out, b.noted.outgoing(b.subjects.noted(), []byte{version}, false))
	}
	return out
}

func (r *record[T]) outgoing(subject string, data []byte, empty bool) outgoing {
	o := outgoing{subject: subject, data: data, checked: true, seq: r.seq}
	if empty {
		o.ttl = emptyFor
	}
	return o
}
