package jetstream

import (
	"slices"
	"sync"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/steady"
	"github.com/matrixrelay/relay/store/internal/wake"
)

// maxCached bounds the records that are remembered beside the mailboxes; when
// there are more, all are read anew as they are needed.
const maxCached = 16 << 10

// A cache has the records of the stream, as far as this process knows. A wrong record
// in it makes a commit fail, which is then tried with the records of the leader, so
// the cache only decides how often that happens.
type cache struct {
	subjects subjects
	waiting  *wake.Hub // is told of entries that are new

	mu      sync.Mutex
	newest  uint64 // the largest sequence that was seen
	records map[string]known
	boxes   map[spec.ServerName]summary
	held    halves            // their counts together
	clock   *steady.Clock     // of the store
	top     int64             // the largest ID that was ever seen
	others  map[string]uint64 // by the hash of a mailbox: the last change by others
}

// A known record is one that was seen. This process isn't told when others change a
// share, but it's told of the changes of the mailbox that come with them: a share is
// forgotten if others has changed since.
type known struct {
	message
	others uint64
}

// A summary is kept of every mailbox that has something.
type summary struct {
	seq uint64
	counts
	soonest int64
	next    int64 // the ID of the next entry
	tidy    bool  // entries that are gone wait to be forgotten
}

func newCache(s subjects, waiting *wake.Hub) *cache {
	return &cache{
		subjects: s, waiting: waiting, clock: steady.Start(0),
		records: make(map[string]known), boxes: make(map[spec.ServerName]summary), others: make(map[string]uint64),
	}
}

func (c *cache) get(subject string) (message, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.records[subject]
	if of := c.subjects.shareOf(subject); of != "" && k.others != c.others[of] {
		return message{}, false
	}
	return k.message, ok
}

// learn takes in the record that a subject has, if it is newer than the one that is
// known. If it is a mailbox with new entries, receivers that wait for it are woken.
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
	of := c.subjects.shareOf(subject)
	if k, ok := c.records[subject]; ok && (k.seq > m.seq || k.seq == m.seq && k.others == c.others[of]) {
		return "", false
	}
	if len(c.records) >= maxCached || len(c.others) >= maxCached {
		clear(c.records)
		clear(c.others)
	}
	c.records[subject] = known{m, c.others[of]}
	if subject == c.subjects.clock() {
		c.learnClock(m.data)
	}
	if name, ok := c.subjects.boxName(subject); ok {
		return name, c.learnBox(name, m)
	}
	return "", false
}

// changed says that another process has changed a record.
func (c *cache) changed(subject string, seq uint64) {
	if name, ok := c.subjects.boxName(subject); ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.others[shortHash(name)] = seq
	}
}

func (c *cache) learnBox(destination spec.ServerName, m message) (isNew bool) {
	known := c.boxes[destination]
	if known.seq >= m.seq {
		return false
	}
	b := box{}
	if len(m.data) == 0 || decode(m.data, &b) != nil {
		c.setBox(destination, summary{})
		return false
	}
	c.top = max(c.top, b.nextID()-1)
	if b.holdsNothing() {
		c.setBox(destination, summary{})
		return false
	}
	c.setBox(destination, summary{
		seq: m.seq, counts: b.counts, soonest: b.soonest, next: b.nextID(),
		tidy: b.entries == 0 && b.aside == 0,
	})
	return b.nextID() > known.next
}

// setBox keeps the summary of a mailbox, if it isn't empty.
func (c *cache) setBox(destination spec.ServerName, s summary) {
	held := c.held.of(destination)
	*held = held.minus(c.boxes[destination].counts).plus(s.counts)
	if s.seq == 0 {
		delete(c.boxes, destination)
	} else {
		c.boxes[destination] = s
	}
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
	clear(c.others)
	clear(c.boxes)
	c.held = halves{}
}

func (c *cache) summary(destination spec.ServerName) (s summary, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok = c.boxes[destination]
	return s, ok
}

// whole returns the counts of all mailboxes of a half, and the largest ID that any gave.
func (c *cache) whole(half spec.ServerName) (held counts, top int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *c.held.of(half), c.top
}

// destinations returns those that have mail and come after a name, in its half.
func (c *cache) destinations(after spec.ServerName, limit int) []spec.ServerName {
	names, last := []spec.ServerName{}, spec.ServerName("")
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, s := range c.boxes {
		if name <= after || store.IsPrivate(name) != store.IsPrivate(after) || s.entries == 0 || last != "" && name > last {
			continue
		}
		names = append(names, name)
		if len(names)/2 >= limit { // keep only as many as the page can have, as sorting all takes longer
			slices.Sort(names)
			names, last = names[:limit], names[limit-1]
		}
	}
	slices.Sort(names)
	return names[:min(limit, len(names))]
}

// due returns the mailboxes that have something to remove.
func (c *cache) due() (names []spec.ServerName) {
	now := c.clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, s := range c.boxes {
		if s.tidy || s.soonest != 0 && s.soonest <= now {
			names = append(names, name)
		}
	}
	return names
}
