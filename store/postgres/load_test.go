//go:build unix

package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// A load is goroutines that put, fetch and acknowledge through several stores
// while the server or the connections come to grief. Afterwards all mail that a
// Put answered nil for must have been seen once, unchanged, under one ID, and
// that of one writer in the order in which it was put.
type load struct {
	t      *testing.T
	stores []*Store

	stop, written    atomic.Bool // tells the writers to stop, and that they have
	writing, reading sync.WaitGroup

	mu       sync.Mutex
	answered [][]letter                // by writer, in order
	unsure   int                       // Puts that gave an error
	seen     map[store.Digest]sighting // by digest, which is unique
	byID     map[sighting]store.Digest // the other way round
	largest  map[spec.ServerName]int64 // of the IDs that were acknowledged
}

// A letter is mail that was answered, and where it went.
type letter struct {
	digest store.Digest
	to     spec.ServerName
}

type sighting struct {
	to spec.ServerName
	id int64
}

const loadWriters, loadDestinations = 8, 3

func newLoad(t *testing.T, stores ...*Store) *load {
	return &load{
		t: t, stores: stores, answered: make([][]letter, loadWriters),
		seen: make(map[store.Digest]sighting), byID: make(map[sighting]store.Digest), largest: make(map[spec.ServerName]int64),
	}
}

// How often a test of crashes does something, and its seed.
const (
	crashRounds = "RELAY_CRASH_ROUNDS"
	crashSeed   = "RELAY_CRASH_SEED"
)

func destination(i int) spec.ServerName { return spec.ServerName(fmt.Sprint("to ", i)) }

func (l *load) start(seed uint64) {
	for i := range loadWriters {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		l.writing.Go(func() { l.write(i, random) })
	}
	for i := range loadDestinations {
		l.reading.Go(func() { l.fetch(i) })
	}
}

// write puts one mail after the other. Mail whose Put gives an error is put again, or
// given up: then it may be there or not.
func (l *load) write(writer int, random *rand.Rand) {
	for n := 0; !l.stop.Load(); n++ {
		m := l.mail(writer, n, random)
		limits := store.Limits{}
		if random.IntN(2) == 0 {
			limits = store.Limits{Entries: 1 << 40, OriginBytes: 1 << 40, StoreEntries: 1 << 40}
		}
		for failed := false; ; failed = true {
			stored, err := l.stores[random.IntN(len(l.stores))].Put(context.Background(), m, limits)
			if err == nil && (stored || failed) {
				l.mu.Lock()
				l.answered[writer] = append(l.answered[writer], letter{m.Digest, m.Destination})
				l.mu.Unlock()
				break
			}
			if errors.Is(err, store.ErrClosed) { // the test has failed
				return
			}
			if err == nil || errors.Is(err, store.ErrFull) {
				l.t.Errorf("new mail was answered with %v, %v", stored, err)
				return
			}
			l.mu.Lock()
			l.unsure++
			l.mu.Unlock()
			if random.IntN(3) == 0 {
				break
			}
		}
	}
}

func (l *load) mail(writer, n int, random *rand.Rand) store.Mail {
	m := store.Mail{
		Destination: destination(random.IntN(loadDestinations)), Origin: spec.ServerName(fmt.Sprint("from ", writer)),
		TransactionID: gomatrixserverlib.TransactionID(fmt.Sprint(n)),
	}
	binary.BigEndian.PutUint64(m.Digest[:], uint64(writer))
	binary.BigEndian.PutUint64(m.Digest[8:], uint64(n))
	m.Body = bodyOf(m.Digest, 100+random.IntN(5000))
	return m
}

// bodyOf is a body that shows which mail it is of.
func bodyOf(d store.Digest, size int) []byte {
	body := make([]byte, size)
	_, _ = rand.NewChaCha8(d).Read(body) // it never fails
	return body
}

// fetch reads a destination until all of it was read. That of the first is read
// on behind the last entry, so that one that came late with a smaller ID would
// be missed; the others are acknowledged and read from the start.
func (l *load) fetch(i int) {
	to, last := destination(i), int64(0)
	for n := 0; ; n++ {
		ending := l.written.Load()
		after := last
		if i > 0 {
			after = 0
		}
		s := l.stores[n%len(l.stores)]
		entries, err := s.Next(context.Background(), to, after, 50, math.MaxInt64)
		switch {
		case errors.Is(err, store.ErrEmpty) && ending, errors.Is(err, store.ErrClosed):
			return
		case err != nil:
			time.Sleep(time.Millisecond)
			continue
		}
		for _, e := range entries {
			if e.ID <= after {
				l.t.Errorf("entry %d of %s comes after %d", e.ID, to, after)
				return
			}
			if err := l.see(e); err != nil {
				l.t.Errorf("entry %d of %s: %v", e.ID, to, err)
				return
			}
			after = e.ID
		}
		last = after
		if i > 0 {
			l.acknowledge(s, to, last)
		}
	}
}

// see notes an entry and returns an error if it isn't as it should be: a place
// that was acknowledged for certain stays empty.
func (l *load) see(e store.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := sighting{e.Destination, e.ID}
	before, known := l.seen[e.Digest]
	other, taken := l.byID[at]
	l.seen[e.Digest], l.byID[at] = at, e.Digest
	switch {
	case known && before != at:
		return fmt.Errorf("it was entry %d of %s before", before.id, before.to)
	case taken && other != e.Digest:
		return errors.New("that was other mail before")
	case e.ID <= l.largest[e.Destination]:
		return fmt.Errorf("%d was acknowledged", l.largest[e.Destination])
	case string(e.Body) != string(bodyOf(e.Digest, len(e.Body))):
		return errors.New("its body has changed")
	}
	return nil
}

func (l *load) acknowledge(s *Store, to spec.ServerName, id int64) {
	if _, err := s.Ack(context.Background(), to, id); err == nil {
		l.mu.Lock()
		l.largest[to] = id
		l.mu.Unlock()
	}
}

// progress waits until that many more mails were answered, so that the next fault
// meets a load, and the one before was got over.
func (l *load) progress(n int) {
	l.t.Helper()
	answered := func() (sum int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, letters := range l.answered {
			sum += len(letters)
		}
		return sum
	}
	before := answered()
	require.Eventually(l.t, func() bool { return l.t.Failed() || answered() >= before+n }, patience, time.Millisecond)
}

// finish ends the writers and checks everything.
func (l *load) finish() {
	l.stop.Store(true)
	l.writing.Wait()
	l.written.Store(true)
	l.reading.Wait()
	answered := 0
	for writer, letters := range l.answered {
		last := make(map[spec.ServerName]int64)
		for n, one := range letters {
			at, found := l.seen[one.digest]
			require.True(l.t, found, "mail %d of writer %d was answered and is lost", n, writer)
			require.Greater(l.t, at.id, last[one.to], "mail %d of writer %d is before an earlier one", n, writer)
			last[one.to] = at.id
		}
		answered += len(letters)
	}
	l.t.Logf("%d answered, %d errors, %d seen", answered, l.unsure, len(l.seen))
	require.NotZero(l.t, answered)
	l.checkCounts()
}

// checkCounts compares the counts with the mail that is there.
func (l *load) checkCounts() {
	s := l.stores[0]
	sums := func(sql string) (u store.Usage) {
		l.read(func() error { return s.pool.QueryRow(l.t.Context(), s.schema().sql(sql)).Scan(&u.Entries, &u.Bytes) })
		return u
	}
	usage := func(of spec.ServerName) (u store.Usage) {
		l.read(func() (err error) {
			u, err = s.Usage(l.t.Context(), of)
			return err
		})
		return u
	}
	want, total := sums(`SELECT count(*), coalesce(sum(size), 0)::bigint FROM {s}.entry`), store.Usage{}
	for i := range loadDestinations {
		u := usage(destination(i))
		total.Entries, total.Bytes = total.Entries+u.Entries, total.Bytes+u.Bytes
	}
	require.Equal(l.t, want, total, "in the mailboxes")
	require.Equal(l.t, want, usage(""), "in the whole store")
	require.Equal(l.t, want, sums(`SELECT sum(entries)::bigint, sum(bytes)::bigint FROM {s}.share`), "in the shares")
}

// read tries until there is an answer: a connection that lay idle may have come
// to grief, and nobody has noticed yet.
func (l *load) read(try func() error) {
	l.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		require.True(l.t, time.Now().Before(end), "%v", err)
	}
}
