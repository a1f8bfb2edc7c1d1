package relay_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// fill leaves transactions of 100 KB for a node.
func (q *quiet) fill(to *relaytest.Node, first, count int) {
	q.Helper()
	for i := range count {
		id := gomatrixserverlib.TransactionID(fmt.Sprint(first + i))
		mail := store.Mail{Destination: to.ServerName, Origin: q.a.ServerName, TransactionID: id, Body: largeContent(100_000)}
		_, err := q.store.Put(context.Background(), mail, store.Limits{})
		require.NoError(q, err)
	}
}

// fetch makes a request and returns its status, how many entries came and the last.
func (q *quiet) fetch(address string, node *relaytest.Node, entry int64, query string) (status, count int, last int64) {
	q.Helper()
	a := q.startFrom(address, node, entry, query)
	<-a.isThere
	if a.answer.Code != http.StatusOK {
		return a.answer.Code, 0, 0
	}
	entries := entriesOf(q, a.answer.Body.String())
	if len(entries) > 0 {
		last = entries[len(entries)-1].EntryID
	}
	return a.answer.Code, len(entries), last
}

// TestFetchedAgainAndAgain: 20 connections that fetch 4 MiB without acknowledging them
// get no more than their share, at any address, and later as much as they may fetch
// again.
func TestFetchedAgainAndAgain(t *testing.T) {
	skipIfShort(t)
	quietly(t, nil, func(q *quiet) {
		q.fill(q.b, 0, 40)
		counts, began := make(map[int]int), time.Now()
		entries := 0
		for i := range 2000 {
			status, count, _ := q.fetch(fmt.Sprintf("203.0.113.%d:1", i%20), q.b, 0, "?limit=500")
			counts[status]++
			entries += count
			time.Sleep(30 * time.Millisecond)
		}
		require.Len(t, counts, 2, counts)
		require.Greater(t, counts[http.StatusTooManyRequests], 1500)
		free := int(time.Since(began)/time.Second) * 256 << 10
		require.Less(t, entries*100_000, 32<<20+free+8<<20)

		// A receiver at the same address isn't held up, nor is this one once it does.
		other := relaytest.NewNode("other")
		q.fill(other, 0, 5)
		status, count, _ := q.fetch("203.0.113.1:2", other, 0, "?limit=500")
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, 5, count)

		a := q.startFrom(floodAddress, q.b, 0, "?limit=500")
		<-a.isThere
		requireError(t, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", a.answer.Code, a.answer.Body.String())
		time.Sleep(wire.ParseError(a.answer.Code, a.answer.Header(), a.answer.Body.Bytes()).RetryAfter)
		status, count, _ = q.fetch(floodAddress, q.b, 0, "?limit=500")
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, 1, count, "at a slower pace")
		time.Sleep(2 * time.Minute)
		status, count, last := q.fetch(floodAddress, q.b, 0, "?limit=500")
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, 40, count)
		for status == http.StatusOK {
			status, _, _ = q.fetch(floodAddress, q.b, 0, "?limit=500")
		}
		q.fill(q.b, 40, 3)
		status, count, _ = q.fetch(floodAddress, q.b, last, "?limit=500")
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, 1, count, "whoever acknowledges gets new mail, whatever was before")
	})
}

// TestWantedAtASlowerPace: one that fetches slowly for that isn't told that entries are gone
// which are there.
func TestWantedAtASlowerPace(t *testing.T) {
	quietly(t, nil, func(q *quiet) {
		q.fill(q.b, 0, 40)
		_, count, last := q.fetch(floodAddress, q.b, 0, "?limit=500")
		for count > 1 {
			_, count, _ = q.fetch(floodAddress, q.b, 0, "?limit=500")
		}
		require.Equal(t, 1, count)
		status, count, found := q.fetch(floodAddress, q.b, last-1, fmt.Sprintf("?limit=9&ids=%d,%d", last-1, last))
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, 1, count, "the first is gone")
		require.Equal(t, last, found)
	})
}

// TestManyNamesFetchAgain: an address has a share, too, under all its names. In a
// network where nobody can be told apart, others would pay for that.
func TestManyNamesFetchAgain(t *testing.T) {
	skipIfShort(t)
	quietly(t, nil, func(q *quiet) {
		const names, rounds, each = 8, 4, 40
		var nodes []*relaytest.Node
		for i := range names {
			nodes = append(nodes, relaytest.NewNode(fmt.Sprint("n", i)))
			q.fill(nodes[i], 0, each)
		}
		fetched := func(address string) (entries int) {
			for i := range rounds * names {
				status, count, _ := q.fetch(address, nodes[i%names], 0, "?limit=500")
				require.Equal(t, http.StatusOK, status)
				entries += count
			}
			return entries
		}
		require.Equal(t, rounds*names*each, fetched("[200::1]:5"))
		time.Sleep(time.Hour)
		require.Less(t, fetched(floodAddress)*100_000, 80<<20)
	})
}

// Honest receivers fetch again, too: when an answer is lost, and deployed nodes twice at
// once. They are never refused.
func TestHonestRepeats(t *testing.T) {
	skipIfShort(t)
	quietly(t, nil, func(q *quiet) {
		q.fill(q.b, 0, 300)
		var entry int64
		for range 100 { // each answer is lost twice
			var last int64
			for range 3 {
				status, count, end := q.fetch(phoneAddress, q.b, entry, "?limit=30")
				require.Equal(t, http.StatusOK, status)
				require.Positive(t, count)
				last = end
			}
			if entry = last; entryIsLast(q, entry) {
				break
			}
			time.Sleep(20 * time.Second)
		}
	})
	quietly(t, nil, func(q *quiet) {
		q.fill(q.b, 0, 500)
		entries := make([]int64, 2)
		for done := false; !done; {
			for i := range entries {
				status, count, last := q.fetch(phoneAddress, q.b, entries[i], "")
				require.Equal(t, http.StatusOK, status)
				if entries[i] = last; count == 0 {
					done = true
				}
			}
		}
	})
}

// An answer for which there was no memory wasn't fetched, and costs nothing.
func TestRefusedAnswersCostNothing(t *testing.T) {
	quietly(t, nil, func(q *quiet) {
		mail := store.Mail{Destination: q.b.ServerName, Origin: q.a.ServerName, Body: largeContent(1 << 20)}
		_, err := q.store.Put(q.Context(), mail, store.Limits{})
		require.NoError(t, err)
		release := q.server.HoldAnswers(relay.DefaultMaxInFlightBytes)
		for range 200 {
			status, _, _ := q.fetch(phoneAddress, q.b, 0, "")
			require.Equal(t, http.StatusTooManyRequests, status)
		}
		release()
		status, count, _ := q.fetch(phoneAddress, q.b, 0, "")
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, 1, count)
	})
}

func entryIsLast(q *quiet, entry int64) bool {
	_, count, _ := q.fetch(phoneAddress, q.b, entry, "")
	return count == 0
}
