package wire

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// listOf is the list of some entries.
func listOf(t testing.TB, ids ...int64) []byte {
	t.Helper()
	var entries []Listed
	for _, id := range ids {
		entries = append(entries, Listed{EntryID: id, Origin: "a", TransactionID: `"x`, Digest: testDigest(), Bytes: 10 * id})
	}
	text, err := MakeList(entries)
	require.NoError(t, err)
	return text
}

func TestLists(t *testing.T) {
	for n := 1; n <= 3; n++ {
		ids := []int64{3, 5, 6}[:n]
		a, err := ReadList(listOf(t, ids...))
		require.NoError(t, err)
		require.NotNil(t, a.More)
		require.False(t, a.Receipts)
		for i, got := range append([]Answer{a}, a.More...) {
			got.More = nil
			require.True(t, got.IsListed())
			require.Equal(t, Answer{
				EntryID: ids[i], EntriesQueued: true, TransactionID: `"x`, Origin: "a", Digest: testDigest(), Bytes: 10 * ids[i],
			}, got)
		}
		_, err = ReadAnswer(listOf(t, ids...))
		require.Error(t, err, "it wasn't asked for")
	}
	a, err := ReadList(slices.Concat(MakeAnswer([]Item{{ID: 3, Transaction: []byte(`{}`)}, {ID: 4, Transaction: []byte(`{}`)}}, true)...))
	require.NoError(t, err, "an older relay gives the transactions")
	require.False(t, a.IsListed())
	for _, bad := range []string{
		`{"entries_queued":true,"entry_id":5,"more":[]}`,
		`{"entries_queued":true,"entry_id":5,"origin":"a","digest":"x","more":[]}`,
		`{"entries_queued":true,"entry_id":5,"origin":"a","more":[{"entry_id":5,"origin":"a"}]}`,
		`{"entries_queued":true,"entry_id":5,"origin":"a","more":[{"entry_id":6,"origin":"a","transaction":{}}]}`,
		`{"entries_queued":true,"entry_id":5,"transaction":{},"more":[{"entry_id":6,"origin":"a"}]}`,
		`{"entries_queued":true,"entry_id":5,"origin":"no name","more":[]}`,
	} {
		_, err := ReadList([]byte(bad))
		require.Error(t, err, bad)
	}
}

func TestTakingReceipts(t *testing.T) {
	require.Equal(t, EmptyTaking, string(slices.Concat(TakingReceipts([][]byte{[]byte(EmptyBatch)})...)))
	for _, pieces := range [][][]byte{
		{[]byte(EmptyBatch)}, {[]byte(EmptyAnswer)}, {listOf(t, 3)}, MakeAnswer([]Item{{ID: 3, Transaction: []byte(`{}`)}}, true),
	} {
		before := slices.Concat(pieces...)
		text := slices.Concat(TakingReceipts(pieces)...)
		require.Equal(t, string(before), string(slices.Concat(pieces...)))
		a, err := ReadList(text)
		require.NoError(t, err)
		require.True(t, a.Receipts)
		without, err := ReadList(before)
		require.NoError(t, err)
		a.Receipts = false
		require.Equal(t, without, a)
	}
}

// FuzzReadList: a list is as sure of its entries as an answer is.
func FuzzReadList(f *testing.F) {
	f.Add(listOf(f, 3))
	f.Add(listOf(f, 3, 5, 6))
	f.Add([]byte(`{"entries_queued":true,"entry_id":5,"transaction":{},"more":[{"entry_id":6,"origin":"a"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := ReadList(body)
		if err != nil || !a.EntriesQueued {
			return
		}
		last := int64(0)
		for _, one := range append([]Answer{a}, a.More...) {
			require.Greater(t, one.EntryID, last)
			require.Equal(t, a.IsListed(), one.IsListed())
			require.GreaterOrEqual(t, one.Bytes, int64(0))
			last = one.EntryID
		}
		plain, err := ReadAnswer(body)
		require.Equal(t, a.IsListed(), err != nil)
		if err == nil {
			require.Equal(t, a, plain)
		}
		require.True(t, json.Valid(body))
	})
}
