package jetstream

import (
	"slices"
	"sync"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store/internal/wake"
)

// maxCached bounds the records that are remembered beside the mailboxes; when
// there are more, all are read anew as they are needed.
const maxCached = 16 << 10

// A cache is what this process believes to be the records of the stream. What
// is wrong in it makes a commit fail, which then is tried with what the leader
// has, so nothing depends on it but how often that happens.
type cache struct {
	subjects subjects
	waiting  *wake.Hub // is told of entries that are new

	mu      sync.Mutex
	newest  uint64 // the largest sequence that was seen
	records map[string]message
	boxes   map[spec.ServerName]summary
}

// A summary is what is known of every mailbox that has something.
type summary struct {
	seq uint64
	counts
	soonest int64
	next    int64
	tidy    bool // entries that are gone wait to be forgotten
}

func newCache(s subjects, waiting *wake.Hub) *cache {
	return &cache{subjects: s, waiting: waiting, records: make(map[string]message), boxes: make(map[spec.ServerName]summary)}
}

func (c *cache) get(subject string) (message, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.records[subject]
	return m, ok
}

// learn takes in the record that a subject has, if it is newer than what is
// known. If that is a mailbox with entries that are new, who waits is woken.
func (c *cache) learn(subject string, m message) {
	if m.seq == 0 || !c.subjects.isRecord(subject) {
		return
	}
	if destination, isNew := c.take(subject, m); isNew {
		c.waiting.Notify(destination)
	}
}

func (c *cache) take(subject string, m message) (destination spec.ServerName, isNew bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.newest = max(c.newest, m.seq)
	if known, ok := c.records[subject]; ok && known.seq >= m.seq {
		return "", false
	}
	if len(c.records) >= maxCached {
		clear(c.records)
	}
	c.records[subject] = m
	if name, ok := c.subjects.name(subject); ok && c.subjects.isBox(subject) {
		destination = spec.ServerName(name)
		isNew = c.learnBox(destination, m)
	}
	return destination, isNew
}

func (c *cache) learnBox(destination spec.ServerName, m message) (isNew bool) {
	known := c.boxes[destination]
	if known.seq >= m.seq {
		return false
	}
	b, err := decodeBox(m.data)
	if err != nil || b == nil || b.holdsNothing() {
		delete(c.boxes, destination)
		return false
	}
	c.boxes[destination] = summary{
		seq: m.seq, counts: b.counts, soonest: b.soonest, next: b.next(),
		tidy: b.entries == 0 && b.aside == 0,
	}
	return b.next() > known.next
}

// last is the largest sequence that was seen.
func (c *cache) last() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.newest
}

// clear forgets everything.
func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.newest = 0
	clear(c.records)
	clear(c.boxes)
}

// forget is for a mailbox that the leader doesn't have, unless more was learnt
// since s.
func (c *cache) forget(destination spec.ServerName, s summary) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.boxes[destination].seq == s.seq {
		delete(c.boxes, destination)
		delete(c.records, c.subjects.box(destination))
	}
}

func (c *cache) summary(destination spec.ServerName) (s summary, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok = c.boxes[destination]
	return s, ok
}

// total is what all mailboxes have together, as far as they are known. It's for
// when the record of that can't be read.
func (c *cache) total() *total {
	t := &total{}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.boxes {
		t.entries, t.bytes, t.aside = t.entries+s.entries, t.bytes+s.bytes, t.aside+s.aside
		t.top = max(t.top, s.next-1)
	}
	return t
}

// destinations returns those that have mail and come after a name.
func (c *cache) destinations(after spec.ServerName, limit int) []spec.ServerName {
	names, last := []spec.ServerName{}, spec.ServerName("")
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, s := range c.boxes {
		if name <= after || s.entries == 0 || last != "" && name > last {
			continue
		}
		names = append(names, name)
		if len(names)/2 >= limit { // keep to what the page can have, as sorting all takes longer
			slices.Sort(names)
			names, last = names[:limit], names[limit-1]
		}
	}
	slices.Sort(names)
	return names[:min(limit, len(names))]
}

// due returns the mailboxes that have something to remove.
func (c *cache) due(now int64) (names []spec.ServerName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, s := range c.boxes {
		if s.tidy || s.soonest != 0 && s.soonest <= now {
			names = append(names, name)
		}
	}
	return names
}
