//go:build unix

package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
)

// A crowd puts mail through two stores, and takes some of it out.
type crowd struct {
	*testing.T
	stores     [2]*Store
	stop       atomic.Bool
	puts, acks atomic.Int64
	running    sync.WaitGroup

	mu   sync.Mutex
	kept map[spec.ServerName]map[gomatrixserverlib.TransactionID]store.Mail // for which Put gave no error
	seen map[spec.ServerName]map[gomatrixserverlib.TransactionID]int64      // mail that was read, and its ID
}

const loadPutters = 8

func newCrowd(t *testing.T, nodes cluster) *crowd {
	l := &crowd{
		T:    t,
		kept: make(map[spec.ServerName]map[gomatrixserverlib.TransactionID]store.Mail),
		seen: make(map[spec.ServerName]map[gomatrixserverlib.TransactionID]int64),
	}
	for i := range l.stores {
		o := testOptions(nil)
		o.Timeout = 10 * time.Second
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
		l.stores[i] = nodes.open(t, o)
		t.Cleanup(func() { require.NoError(t, l.stores[i].Close()) })
	}
	for i := range loadPutters {
		l.running.Go(func() { l.put(i) })
	}
	for i := range 2 {
		l.running.Go(func() { l.receive(loadName(i), l.stores[1-i]) })
	}
	return l
}

// loadName is where a putter's mail goes; the first two are emptied meanwhile.
func loadName(i int) spec.ServerName { return spec.ServerName(fmt.Sprintf("d%d.example", i%4)) }

// put puts mail until the end, each as often as it takes, as a sender does.
func (l *crowd) put(i int) {
	s := l.stores[i%2]
	for n := 0; !l.stop.Load(); n++ {
		mail := loadMail(loadName(i/2), i, n)
		stored := false
		for {
			limits := store.Limits{Entries: 1 << 30, StoreEntries: 1 << 40}
			isNew, err := s.Put(context.Background(), mail, limits)
			if stored && isNew {
				l.Errorf("%s was stored twice", mail.TransactionID)
			}
			stored = stored || isNew
			if err == nil {
				break
			}
			if errors.Is(err, store.ErrFull) {
				l.Errorf("%s: %v", mail.TransactionID, err)
			}
		}
		l.mu.Lock()
		remember(l.kept, mail.Destination, mail.TransactionID, mail)
		l.mu.Unlock()
		l.puts.Add(1)
	}
}

func remember[V any](in map[spec.ServerName]map[gomatrixserverlib.TransactionID]V, to spec.ServerName, id gomatrixserverlib.TransactionID, v V) {
	if in[to] == nil {
		in[to] = make(map[gomatrixserverlib.TransactionID]V)
	}
	in[to][id] = v
}

func loadMail(to spec.ServerName, putter, n int) store.Mail {
	body := make([]byte, 100+n%3000)
	for i := range body {
		body[i] = byte(i * (n + putter))
	}
	return store.Mail{
		Destination: to, Origin: spec.ServerName(fmt.Sprint("o", putter)), Body: body, Proof: []byte("proof"),
		TransactionID: gomatrixserverlib.TransactionID(fmt.Sprintf("%d/%d", putter, n)),
	}
}

// receive takes mail out, as a receiver does: mail that it acknowledged without an
// error must not come back.
func (l *crowd) receive(to spec.ServerName, s *Store) {
	acknowledged := int64(0)
	for !l.stop.Load() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		err := s.Wait(ctx, to, acknowledged)
		cancel()
		if err != nil {
			continue
		}
		entries, err := s.Next(context.Background(), to, 0, 20, 1<<20)
		if err != nil {
			continue
		}
		l.look(entries, acknowledged)
		last := entries[len(entries)-1].ID
		if _, err := s.Ack(context.Background(), to, last); err == nil {
			acknowledged = last
			l.acks.Add(int64(len(entries)))
		}
	}
}

// look checks the entries that were read against the mail that was put, and the IDs
// for their order.
func (l *crowd) look(entries []store.Entry, after int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range entries {
		var putter, n int
		if _, err := fmt.Sscanf(string(e.TransactionID), "%d/%d", &putter, &n); err != nil {
			l.Errorf("transaction %q", e.TransactionID)
		}
		want := loadMail(e.Destination, putter, n)
		if string(want.Body) != string(e.Body) || string(want.Proof) != string(e.Proof) || want.Origin != e.Origin {
			l.Errorf("%s has changed", e.TransactionID)
		}
		if e.ID <= after {
			l.Errorf("%s: entry %d after %d", e.Destination, e.ID, after)
		}
		after = e.ID
		if id, ok := l.seen[e.Destination][e.TransactionID]; ok && id != e.ID {
			l.Errorf("%s is entry %d and also %d", e.TransactionID, id, e.ID)
		}
		remember(l.seen, e.Destination, e.TransactionID, e.ID)
	}
}

// progress waits for more Puts: the last fault is got over then, and the next one
// meets a load.
func (l *crowd) progress() {
	l.Helper()
	before := l.puts.Load()
	require.Eventually(l, func() bool { return l.puts.Load() > before+100 }, patience, 10*time.Millisecond)
}

// ask tries until there is an answer: nodes that are busy may elect a leader once
// more.
func (l *crowd) ask(try func() error) {
	l.Helper()
	for end := time.Now().Add(patience); ; {
		err := try()
		if err == nil {
			return
		}
		require.True(l, time.Now().Before(end), "%v", err)
	}
}

func (l *crowd) usage(s *Store, of spec.ServerName) (usage store.Usage) {
	l.Helper()
	l.ask(func() (err error) {
		usage, err = s.Usage(l.Context(), of)
		return err
	})
	return usage
}

// finish ends the load and counts everything.
func (l *crowd) finish() {
	l.stop.Store(true)
	l.running.Wait()
	var all store.Usage
	for i := range 4 {
		to := loadName(i)
		left, shares := l.rest(l.stores[0], to)
		for _, s := range l.stores {
			assert.Equal(l, left, l.usage(s, to), "usage of %s", to)
		}
		l.compareShares(to, shares)
		all.Entries, all.Bytes = all.Entries+left.Entries, all.Bytes+left.Bytes
		for id := range l.kept[to] {
			if _, ok := l.seen[to][id]; !ok {
				l.lost(to, id)
			}
		}
		ordered(l.T, l.seen[to])
	}
	for _, s := range l.stores {
		assert.Eventually(l, func() bool { return l.usage(s, "") == all }, patience, 10*time.Millisecond, "usage of the store")
	}
}

// compareShares checks the store's counts of each origin.
func (l *crowd) compareShares(to spec.ServerName, want map[spec.ServerName]counts) {
	for i := range loadPutters {
		origin := spec.ServerName(fmt.Sprint("o", i))
		var m message
		l.ask(func() (err error) {
			m, err = l.stores[0].engine.last(l.Context(), l.stores[0].cache.subjects.share(to, hashOrigin(origin)))
			return err
		})
		got := counts{}
		if len(m.data) > 0 {
			require.NoError(l, decode(m.data, &got))
		}
		assert.Equal(l, want[origin], got, "share of %s in %s", origin, to)
	}
}

// lost reports mail for which Put gave no error, but which nobody ever saw.
func (l *crowd) lost(to spec.ServerName, id gomatrixserverlib.TransactionID) {
	var putter, n int
	_, err := fmt.Sscanf(string(id), "%d/%d", &putter, &n)
	require.NoError(l, err)
	before := gomatrixserverlib.TransactionID(fmt.Sprintf("%d/%d", putter, n-1))
	after := gomatrixserverlib.TransactionID(fmt.Sprintf("%d/%d", putter, n+1))
	mail := loadMail(to, putter, n)
	m, err := l.stores[0].engine.last(l.Context(), l.stores[0].cache.subjects.mail(seal.KeyOf(&mail)))
	l.Errorf("%s for %s was put and never seen: it is between %d and %d, and the stream has %d bytes at %d (%v)",
		id, to, l.seen[to][before], l.seen[to][after], len(m.data), m.seq, err)
}

// rest reads the mail that is left in a mailbox, and returns the counts that should be.
func (l *crowd) rest(s *Store, to spec.ServerName) (usage store.Usage, shares map[spec.ServerName]counts) {
	after := int64(0)
	shares = make(map[spec.ServerName]counts)
	for {
		var entries []store.Entry
		l.ask(func() (err error) {
			if entries, err = s.Next(l.Context(), to, after, 100, 1<<30); errors.Is(err, store.ErrEmpty) {
				return nil
			}
			return err
		})
		if len(entries) == 0 {
			return usage, shares
		}
		l.look(entries, after)
		after = entries[len(entries)-1].ID
		for i := range entries {
			usage.Entries++
			usage.Bytes += entries[i].Size()
			share := shares[entries[i].Origin]
			share.entries, share.bytes = share.entries+1, share.bytes+entries[i].Size()
			shares[entries[i].Origin] = share
		}
	}
}

// ordered requires that each putter's mail has IDs in the order in which it was
// put.
func ordered(t *testing.T, seen map[gomatrixserverlib.TransactionID]int64) {
	t.Helper()
	for i := range loadPutters {
		last := int64(0)
		for n := 0; ; n++ {
			id, ok := seen[gomatrixserverlib.TransactionID(fmt.Sprintf("%d/%d", i, n))]
			if !ok {
				break
			}
			require.Greater(t, id, last)
			last = id
		}
	}
}
