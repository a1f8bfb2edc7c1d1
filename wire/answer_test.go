package wire

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/stretchr/testify/require"
)

func TestReadEntryID(t *testing.T) {
	for body, want := range map[string]int64{
		`{"entry_id":0}`: 0, `{"entry_id":7}`: 7, `{}`: 0, ` {"entry_id" : 9007199254740993, "x": []} `: 9007199254740993,
	} {
		id, err := ReadEntryID([]byte(body))
		require.NoError(t, err, body)
		require.Equal(t, want, id)
	}
	for body, code := range map[string]string{
		``: "M_NOT_JSON", `{`: "M_NOT_JSON", `{"entry_id":01}`: "M_NOT_JSON",
		`{"entry_id":-1}`: "M_BAD_JSON", `{"entry_id":"1"}`: "M_BAD_JSON", `{"entry_id":1.5}`: "M_BAD_JSON",
		`{"entry_id":99999999999999999999}`: "M_BAD_JSON", `null`: "M_BAD_JSON", `[]`: "M_BAD_JSON", `7`: "M_BAD_JSON",
	} {
		_, err := ReadEntryID([]byte(body))
		var e *Error
		require.ErrorAs(t, err, &e, body)
		require.Equal(t, 400, e.Status)
		require.EqualValues(t, code, e.Code, body)
	}
}

func FuzzReadEntryID(f *testing.F) {
	f.Add([]byte(`{"entry_id":7}`))
	f.Add([]byte(` {"Entry_ID":-0,"entry_id":1e2}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		id, err := ReadEntryID(body)
		if err != nil {
			require.ErrorAs(t, err, new(*Error))
			return
		}
		var entry fclient.RelayEntry
		require.NoError(t, json.Unmarshal(body, &entry))
		require.Equal(t, entry.EntryID, id)
		require.GreaterOrEqual(t, id, int64(0))
	})
}

func appendAnswer(id int64, transaction []byte) []byte {
	return slices.Concat(MakeAnswer([]Item{{ID: id, TransactionID: "t", Transaction: transaction}}, false)...)
}

func TestAnswers(t *testing.T) {
	var empty fclient.RespGetRelayTransaction
	require.NoError(t, json.Unmarshal([]byte(EmptyAnswer), &empty))
	require.Equal(t, fclient.RespGetRelayTransaction{}, empty)
	a, err := ReadAnswer([]byte(EmptyAnswer))
	require.NoError(t, err)
	require.False(t, a.EntriesQueued)

	a, err = ReadAnswer(appendAnswer(3, []byte(`{"pdus":[],"x":1}`)))
	require.NoError(t, err)
	require.Equal(t, Answer{Transaction: json.RawMessage(`{"pdus":[],"x":1}`), EntryID: 3, EntriesQueued: true, TransactionID: "t"}, a)
	_, err = a.Decode()
	require.NoError(t, err)

	for _, bad := range []string{
		``, `{`, `[]`, `{"entries_queued":true}`, `{"entries_queued":true,"entry_id":1}`,
		`{"entries_queued":true,"entry_id":1,"transaction":null}`, `{"entries_queued":true,"entry_id":0,"transaction":{}}`,
		`{"entries_queued":true,"entry_id":-4,"transaction":{}}`, `{"entries_queued":1}`,
	} {
		_, err := ReadAnswer([]byte(bad))
		require.Error(t, err, bad)
	}
}

func TestBatches(t *testing.T) {
	items := []Item{
		{ID: 3, TransactionID: `"\x00`, Transaction: []byte(`{"pdus":[3]}`), Proof: []byte(`{"relay":"r"}`)},
		{ID: 5, TransactionID: "5", Transaction: []byte(`{"pdus":[5]}`)},
		{ID: 6, TransactionID: "6", Transaction: []byte(`{"pdus":[6]}`), Proof: []byte(`{}`)},
	}
	for n := 1; n <= len(items); n++ {
		a, err := ReadAnswer(slices.Concat(MakeAnswer(items[:n], true)...))
		require.NoError(t, err)
		require.NotNil(t, a.More)
		all := append([]Answer{a}, a.More...)
		require.Len(t, all, n)
		for i, got := range all {
			got.More = nil
			require.Equal(t, Answer{
				Transaction: items[i].Transaction, EntryID: items[i].ID, EntriesQueued: true,
				TransactionID: items[i].TransactionID, Proof: items[i].Proof,
			}, got)
		}
	}
	a, err := ReadAnswer([]byte(EmptyBatch))
	require.NoError(t, err)
	require.Equal(t, Answer{More: []Answer{}}, a)

	for _, bad := range []string{
		`{"entries_queued":true,"entry_id":5,"transaction":{},"more":[{"entry_id":5,"transaction":{}}]}`,
		`{"entries_queued":true,"entry_id":5,"transaction":{},"more":[{"entry_id":6,"transaction":null}]}`,
		`{"entries_queued":true,"entry_id":5,"transaction":{},"more":[{}]}`,
		`{"entries_queued":true,"entry_id":5,"transaction":{},"more":{}}`,
		`{"entries_queued":true,"entry_id":5,"transaction":{},"more":[7]}`,
		`{"entries_queued":true,"entry_id":5.0,"transaction":{}}`,
		`{"more":` + strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20) + `}`,
	} {
		_, err := ReadAnswer([]byte(bad))
		require.Error(t, err, bad)
	}
}

func FuzzReadAnswer(f *testing.F) {
	f.Add(appendAnswer(3, []byte(`{"pdus":[]}`)))
	f.Add(slices.Concat(MakeAnswer([]Item{{ID: 3, Transaction: []byte(`{}`)}, {ID: 4, Transaction: []byte(`{}`), Proof: []byte(`{"uri":""}`)}}, true)...))
	f.Add([]byte(`{"entries_queued":true,"entry_id":5,"transaction":{},"more":[{"entry_id":6,"transaction":{},"relay_proof":null,"more":[{}]}]}`))
	f.Add([]byte(EmptyAnswer))
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := ReadAnswer(body)
		if err != nil || !a.EntriesQueued {
			return
		}
		last := int64(0)
		for _, one := range append([]Answer{a}, a.More...) {
			require.Greater(t, one.EntryID, last)
			require.True(t, one.EntriesQueued)
			last = one.EntryID
			_, _ = one.Decode()
		}
	})
}

func TestRelaysSeq(t *testing.T) {
	require.Equal(t, `{"relays_seq":7}`, string(WithRelaysSeq(SentAnswer, 7)))
	proven := WithRelaysSeq(ProvenAnswer, MaxInteger)
	require.Equal(t, `{"proven":true,"relays_seq":9007199254740991}`, string(proven))
	require.True(t, IsProven(proven))
	require.EqualValues(t, MaxInteger, RelaysSeq(proven))
	for _, none := range []string{SentAnswer, `null`, ``, `{"relays_seq":-1}`, `{"relays_seq":9007199254740992}`, `{"relays_seq":"7"}`} {
		require.Zero(t, RelaysSeq([]byte(none)), none)
	}
}
