package relay_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// TestLookingFirst: a receiver sees a list of its mail, and fetches the entries that it wants.
func TestLookingFirst(t *testing.T) {
	r := newRig(t, nil)
	ids := r.fill(5, 300)
	fetched := r.next(wire.Query{Limit: 5}, wire.Fetch{})
	entries := r.listed()
	require.Equal(t, ids, listedIDs(entries))
	for i, whole := range append([]wire.Answer{fetched}, fetched.More...) {
		content, err := wire.ReadContent(whole.Transaction)
		require.NoError(t, err)
		require.True(t, entries[i].IsListed())
		require.Equal(t, content.Digest, entries[i].Digest)
		require.Equal(t, r.a.ServerName, entries[i].Origin)
		require.Equal(t, whole.TransactionID, entries[i].TransactionID)
		require.EqualValues(t, len(whole.Transaction)+len(whole.Proof), entries[i].Bytes)
	}
	for query, want := range map[string][]int64{
		"?limit=2&bodies=0": ids[:2],
		fmt.Sprintf("?limit=9&bodies=0&after=%d", ids[2]): ids[3:],
		"?bodies=0":                    ids[:1],
		"?limit=2&bodies=1":            ids[:2],
		fmt.Sprintf("?ids=%d", ids[3]): {ids[3]},
		fmt.Sprintf("?ids=%d,7,%d&limit=5", ids[4], ids[1]):        {ids[1], ids[4]},
		fmt.Sprintf("?ids=%d,%d&after=%d", ids[0], ids[0], ids[4]): {ids[0]},
		fmt.Sprintf("?ids=%d&timeout=60000", ids[4]+1):             nil,
	} {
		status, body := r.call(http.MethodGet, r.b, wire.RelayTxnURI(relaytest.User(r.b.ServerName))+query, wire.Fetch{})
		require.Equal(t, http.StatusOK, status, body)
		answer, err := wire.ReadList([]byte(body))
		require.NoError(t, err)
		require.NotNil(t, answer.More, "it is a batch")
		require.True(t, answer.Receipts)
		var got []int64
		if answer.EntriesQueued {
			got = listedIDs(append([]wire.Answer{answer}, answer.More...))
		}
		require.Equal(t, want, got, query)
	}
	require.False(t, r.next(wire.Query{List: true}, wire.Fetch{EntryID: ids[4]}).EntriesQueued, "it acknowledges, too")
	require.Empty(t, r.listed())
}

// TestListsAreBounded: a list holds about as many bytes as a batch may, also where that may
// have any number of entries.
func TestListsAreBounded(t *testing.T) {
	r := newRig(t, func(c *relay.Config) { c.MaxBatch, c.MaxBatchBytes = -1, 8<<10 })
	ids := r.fill(12, 100)
	require.Equal(t, ids[:8], listedIDs(r.listed()))
}

// TestWantedAreBounded: an answer has no more bytes than others, but always one entry.
func TestWantedAreBounded(t *testing.T) {
	r := newRig(t, func(c *relay.Config) { c.MaxBatchBytes, c.MaxBatch = 5000, 3 })
	ids := r.fill(5, 2000)
	answer := r.next(wire.Query{IDs: ids[1:]}, wire.Fetch{})
	require.Equal(t, ids[1], answer.EntryID)
	require.Len(t, answer.More, 1)
	require.Len(t, r.next(wire.Query{Limit: 500, List: true}, wire.Fetch{}).More, 2)
	large := newRig(t, func(c *relay.Config) { c.MaxBatchBytes = 500 })
	ids = large.fill(3, 2000)
	answer = large.next(wire.Query{IDs: ids[1:]}, wire.Fetch{})
	require.Equal(t, ids[1], answer.EntryID)
	require.Empty(t, answer.More)
}

// TestNoLists: a relay whose store can't list answers as one that doesn't know the query.
func TestNoLists(t *testing.T) {
	r := newRig(t, func(c *relay.Config) { c.Store = bare{c.Store} })
	ids := r.fill(2, 100)
	for _, query := range []wire.Query{{Limit: 2, List: true}, {Limit: 2, IDs: ids[1:]}} {
		answer := r.next(query, wire.Fetch{})
		require.False(t, answer.IsListed())
		require.Equal(t, ids[0], answer.EntryID)
		require.Len(t, answer.More, 1)
	}
	_, _, info := r.info(http.MethodGet)
	require.NotContains(t, info, `"`+wire.ListsExtension+`"`)
}

// TestListsAreNotMail: lists that are asked for again and again have a limit of their own,
// and take nothing from that of the mail.
func TestListsAreNotMail(t *testing.T) {
	skipIfShort(t)
	quietly(t, nil, func(q *quiet) {
		for i := range 500 {
			mail := store.Mail{Destination: q.b.ServerName, Origin: q.a.ServerName, TransactionID: gomatrixserverlib.TransactionID(fmt.Sprint(i)), Body: json.RawMessage(`{"pdus":[]}`)}
			_, err := q.store.Put(t.Context(), mail, store.Limits{})
			require.NoError(t, err)
		}
		sent := 0
		for range 300 {
			a := q.startFrom(floodAddress, q.b, 0, "?limit=500&bodies=0")
			<-a.isThere
			require.Equal(t, http.StatusOK, a.answer.Code)
			sent += a.answer.Body.Len()
		}
		require.Less(t, sent, 20<<20, "one entry at a time, at last")
		status, count, _ := q.fetch(floodAddress, q.b, 0, "?limit=500")
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, 500, count)
	})
}
