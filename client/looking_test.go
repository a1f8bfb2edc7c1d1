package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// A lister is a scripted relay that knows lists.
type lister struct {
	*scripted
	fails func(w http.ResponseWriter, ids []int64) bool // or nil; answers for it

	mu      sync.Mutex
	lists   int
	fetched map[int64]int
}

// lister puts a relay that knows lists on the network, with that much mail.
func (b *inbox) lister(name spec.ServerName, last int64) *lister {
	l := &lister{scripted: &scripted{last: last}, fetched: make(map[int64]int)}
	l.odd = l.answerList
	b.scripted(name, l.scripted)
	return l
}

func (l *lister) content(id int64) string { return fmt.Sprintf(`{"origin":"a","pdus":[{"n":%d}]}`, id) }

func (l *lister) answerList(w http.ResponseWriter, a *ask) (answered bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case a.List:
		return l.list(w, a)
	case len(a.IDs) == 0:
		return false
	case l.fails != nil && l.fails(w, a.IDs):
		return true
	}
	var items []wire.Item
	for _, id := range a.IDs {
		if id > l.gone && id <= l.last && len(items) < a.Limit {
			l.fetched[id]++
			items = append(items, wire.Item{ID: id, TransactionID: txnID(id), Transaction: []byte(l.content(id))})
		}
	}
	if len(items) == 0 {
		_, _ = w.Write([]byte(wire.EmptyBatch))
		return true
	}
	_, _ = w.Write(slices.Concat(wire.MakeAnswer(items, true)...))
	return true
}

func (l *lister) list(w http.ResponseWriter, a *ask) bool {
	l.lists++
	var list []wire.Listed
	for id := max(l.gone, a.After) + 1; id <= l.last && len(list) < a.Limit; id++ {
		content, err := wire.ReadContent([]byte(l.content(id)))
		require.NoError(l.b, err)
		one := wire.Listed{EntryID: id, Origin: "a", TransactionID: txnID(id), Bytes: 100}
		one.Digest = content.Digest
		list = append(list, one)
	}
	if len(list) == 0 {
		return false
	}
	answer, err := wire.MakeList(list)
	require.NoError(l.b, err)
	_, _ = w.Write(answer)
	return true
}

func txnID(id int64) gomatrixserverlib.TransactionID {
	return gomatrixserverlib.TransactionID(fmt.Sprint("t", id))
}

// times is how many transactions were fetched here, copies counted.
func (l *lister) times() (times int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.fetched {
		times += n
	}
	return times
}

// requireOnce: transactions 1 to last were handled once.
func (b *inbox) requireOnce(last int) {
	b.Helper()
	got, want := b.got(), upTo(1, last)
	slices.Sort(got)
	slices.Sort(want)
	require.Equal(b, want, got)
}

// Mail that three relays have is fetched from one of them, and acknowledged at all.
func TestLookFirst(t *testing.T) {
	inInbox(t, func(b *inbox) {
		const all = 1000
		relays := []*lister{b.lister(r1, all), b.lister(r2, all), b.lister(r3, all)}
		handled, copies, fetched := 0, 0, 0
		for i, d := range b.sync() {
			require.NoError(t, d.Err)
			require.EqualValues(t, all, relays[i].gone)
			handled, copies, fetched = handled+d.Handled, copies+d.Copies, fetched+relays[i].times()
		}
		require.Equal(t, all, handled)
		require.Equal(t, 2*all, copies)
		require.Equal(t, all, fetched)
		b.requireOnce(all)
	})
}

// A relay that lists all and gives nothing, breaks off, or takes for ever keeps no mail from
// this server that another has.
func TestLookFirstLiars(t *testing.T) {
	for name, fails := range map[string]func(w http.ResponseWriter, ids []int64) bool{
		"nothing": func(w http.ResponseWriter, _ []int64) bool {
			_, _ = w.Write([]byte(wire.EmptyBatch))
			return true
		},
		"an error": func(w http.ResponseWriter, _ []int64) bool {
			(&wire.Error{Status: http.StatusInternalServerError}).Write(w)
			return true
		},
		"half": func(w http.ResponseWriter, ids []int64) bool {
			item := wire.Item{ID: ids[0], TransactionID: txnID(ids[0]), Transaction: fmt.Appendf(nil, `{"origin":"a","pdus":[{"n":%d}]}`, ids[0])}
			_, _ = w.Write(slices.Concat(wire.MakeAnswer([]wire.Item{item}, true)...))
			return ids[0]%2 == 0
		},
	} {
		inInbox(t, func(b *inbox) {
			liar, honest := b.lister(r1, 300), b.lister(r2, 300)
			liar.fails = fails
			require.NoError(t, b.sync()[1].Err, name)
			require.EqualValues(t, 300, honest.gone)
			b.requireOnce(300)
		})
	}
}

// A relay that answers with other entries than those that were asked for isn't asked for ever.
func TestLookFirstOtherEntries(t *testing.T) {
	inInbox(t, func(b *inbox) {
		liar, honest := b.lister(r1, 300), b.lister(r2, 300)
		b.net.Set(r2, relaytest.Host{Handler: honest.scripted, Latency: time.Second}) // so the other is first
		asked := 0
		liar.fails = func(w http.ResponseWriter, _ []int64) bool {
			if asked++; asked > 1000 {
				return false
			}
			item := wire.Item{ID: 1, TransactionID: txnID(1), Transaction: []byte(liar.content(1))}
			_, _ = w.Write(slices.Concat(wire.MakeAnswer([]wire.Item{item}, true)...))
			return true
		}
		got := b.sync()
		require.ErrorContains(t, got[0].Err, "answers entry 1")
		require.NoError(t, got[1].Err)
		require.LessOrEqual(t, asked, 2)
		require.EqualValues(t, 300, honest.gone)
		b.requireOnce(300)
	})
}

// A relay that always gets on, with mail of its own and slowly, doesn't keep others waiting
// for ever.
func TestLookFirstTrickle(t *testing.T) {
	inInbox(t, func(b *inbox) {
		liar := b.lister(r1, 6000)
		liar.gone = 1000
		liar.fails = func(w http.ResponseWriter, ids []int64) bool {
			item := wire.Item{ID: ids[0], TransactionID: txnID(ids[0]), Transaction: []byte(liar.content(ids[0]))}
			_, _ = w.Write(slices.Concat(wire.MakeAnswer([]wire.Item{item}, true)...))
			return true
		}
		b.net.Set(r1, relaytest.Host{Handler: liar.scripted, Latency: 4 * time.Second})
		ctx, cancel := context.WithCancel(b.Context())
		var all sync.WaitGroup
		all.Go(func() { b.receiver.Sync(ctx) })
		time.Sleep(time.Minute) // it has its turn by now
		honest := b.lister(r2, 300)
		all.Go(func() { b.receiver.Sync(ctx) })
		time.Sleep(10 * time.Minute)
		cancel()
		all.Wait()
		require.EqualValues(t, 300, honest.gone)
	})
}

// Others wait for one that doesn't get on for some seconds, and no longer.
func TestLookFirstSlow(t *testing.T) {
	inInbox(t, func(b *inbox) {
		slow := b.lister(r1, 10)
		slow.fails = func(http.ResponseWriter, []int64) bool {
			slow.mu.Unlock() // of the lister and of the scripted relay
			slow.scripted.mu.Unlock()
			time.Sleep(time.Minute)
			slow.scripted.mu.Lock()
			slow.mu.Lock()
			return false
		}
		began := time.Now()
		go b.receiver.Sync(b.Context())
		time.Sleep(time.Second)
		b.lister(r2, 10)
		require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r1))
		require.NoError(t, b.receiver.Sync(b.Context())[0].Err)
		require.Greater(t, time.Since(began), 5*time.Second)
		require.Less(t, time.Since(began), 15*time.Second)
		b.requireOnce(10)
		time.Sleep(time.Hour)
		b.requireOnce(10)
	})
}

// Relays that don't know lists give their mail, and mail that they gave isn't fetched from
// others.
func TestLookFirstFallsBack(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.scripted(r1, &scripted{last: 20})
		l := b.lister(r2, 20)
		got := b.sync()
		require.NoError(t, errors.Join(got[0].Err, got[1].Err))
		b.requireOnce(20)
		require.EqualValues(t, 20, l.gone)
	})
}

// Entries that are gone by then are passed over, and answers that are cut off or too long
// go on where they ended.
func TestLookFirstGone(t *testing.T) {
	inInbox(t, func(b *inbox) {
		l := b.lister(r1, 50)
		l.fails = func(w http.ResponseWriter, ids []int64) bool {
			if len(ids) > 5 {
				item := wire.Item{ID: ids[0], TransactionID: txnID(ids[0]), Transaction: []byte(l.content(ids[0]))}
				if ids[0] == 7 {
					item.ID, item.Transaction = 8, []byte(l.content(8)) // 7 is gone
				}
				_, _ = w.Write(slices.Concat(wire.MakeAnswer([]wire.Item{item}, true)...))
				return true
			}
			return false
		}
		require.NoError(t, b.sync()[0].Err)
		require.EqualValues(t, 50, l.gone)
		want := slices.DeleteFunc(upTo(1, 50), func(n string) bool { return n == "7" })
		require.Equal(t, want, b.got())
	})
	inInbox(t, func(b *inbox) {
		b.restart(func(c *client.CallerConfig, _ *client.ReceiverConfig) { c.MaxAnswerBytes = 4000 })
		l := b.lister(r1, 60)
		require.NoError(t, b.sync()[0].Err)
		require.EqualValues(t, 60, l.gone)
		require.Equal(t, 60, l.times()-len(b.got())+60, "but for answers that were too long")
		require.Equal(t, upTo(1, 60), b.got())
	})
}

// An online receiver fetches new mail once, too, as soon as one relay has it.
func TestLookFirstOnline(t *testing.T) {
	inInbox(t, func(b *inbox) {
		relays := []*lister{b.lister(r1, 0), b.lister(r2, 0), b.lister(r3, 0)}
		stop := b.run()
		for range 30 {
			for _, l := range relays {
				l.add()
			}
			time.Sleep(2 * client.DefaultPollInterval)
		}
		stop()
		b.requireOnce(30)
		fetched := 0
		for _, l := range relays {
			require.EqualValues(t, 30, l.gone)
			fetched += l.times()
		}
		require.Equal(t, 30, fetched)
	})
}

// A meter is a transport that counts the bytes of answers.
type meter struct {
	http.RoundTripper
	read atomic.Int64
}

// RoundTrip implements http.RoundTripper.
func (m *meter) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := m.RoundTripper.RoundTrip(r)
	if err == nil {
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return nil, err
		}
		m.read.Add(int64(len(body)))
		response.Body = io.NopCloser(bytes.NewReader(body))
	}
	return response, err
}

// filledLike puts a relay on the network that has 1,000 transactions of one room event each,
// with proofs that are as long as real ones.
func (b *inbox) filledLike(name spec.ServerName) *memory.Store {
	kept := memory.New(memory.Options{})
	b.relay(name, func(c *relay.Config) { c.Store = kept })
	b.leave("0", 0, name)
	real, err := kept.Next(b.Context(), nodeB, 0, 1, 1)
	require.NoError(b, err)
	_, err = kept.Ack(b.Context(), nodeB, real[0].ID)
	require.NoError(b, err)
	for i := range 1000 {
		made, err := client.NewTransaction(a.Transaction(nodeB, fmt.Sprint(1766620800000+i, "-", i), 1, 1000))
		require.NoError(b, err)
		content, err := wire.ReadContent(made.Body)
		require.NoError(b, err)
		mail := store.Mail{Destination: nodeB, Origin: a.ServerName, TransactionID: made.ID, Digest: content.Digest, Body: made.Body, Proof: real[0].Proof}
		_, err = kept.Put(b.Context(), mail, store.Limits{})
		require.NoError(b, err)
	}
	return kept
}

// A receiver reads at most 1.1 times the bytes from three relays that have the same 1,000
// transactions of one room event as it reads from one.
func TestLookFirstBytes(t *testing.T) {
	read := make(map[int]int64)
	for _, relays := range []int{1, 3} {
		inInbox(t, func(b *inbox) {
			count := &meter{RoundTripper: b.net}
			b.restart(func(c *client.CallerConfig, r *client.ReceiverConfig) {
				c.Transport = count
				r.Handle = func(context.Context, client.Received) error { return nil }
			})
			names := []spec.ServerName{r1, r2, r3}[:relays]
			require.NoError(t, b.peers.SetRelays(b.Context(), nodeB, names...))
			kept := make(map[spec.ServerName]*memory.Store)
			for _, name := range names {
				kept[name] = b.filledLike(name)
			}
			handled := 0
			for _, d := range b.receiver.Sync(b.Context()) {
				require.NoError(t, d.Err)
				handled += d.Handled
				require.Zero(t, b.left(kept[d.Relay]))
			}
			require.Equal(t, 1000, handled)
			read[relays] = count.read.Load()
		})
	}
	t.Logf("from one relay %d bytes, from three %d: %.3f times", read[1], read[3], float64(read[3])/float64(read[1]))
	require.LessOrEqual(t, 10*read[3], 11*read[1])
}

// Mail that a relay brought without its proof is fetched from one that has it.
func TestLookFirstStripped(t *testing.T) {
	for range 5 { // either may be the first
		inStripped(t, func(p *provenInbox) {
			require.NoError(t, p.peers.SetRelays(p.Context(), nodeB, r1, r2))
			p.leave("1", "m.direct_to_device", r1, r2)
			p.leave("2", "m.direct_to_device", r1, r2)
			require.NoError(t, errors.Join(p.receiver.Sync(p.Context())[0].Err, p.receiver.Sync(p.Context())[1].Err))
			proven := slices.DeleteFunc(p.statuses(), func(s client.ProofStatus) bool { return s != client.Proven })
			require.Len(t, proven, 2)
			require.Zero(t, p.left())
		})
	}
}
