package wire

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

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
		e, ok := errors.AsType[*Error](err)
		require.True(t, ok, body)
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
			_, ok := errors.AsType[*Error](err)
			require.True(t, ok)
			return
		}
		var entry fclient.RelayEntry
		require.NoError(t, json.Unmarshal(body, &entry))
		require.Equal(t, entry.EntryID, id)
		require.GreaterOrEqual(t, id, int64(0))
	})
}

func appendAnswer(id int64, transaction []byte) []byte {
	before, behind := AnswerAround(id)
	return slices.Concat(before, transaction, behind)
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
	require.Equal(t, Answer{Transaction: json.RawMessage(`{"pdus":[],"x":1}`), EntryID: 3, EntriesQueued: true}, a)
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

func FuzzReadAnswer(f *testing.F) {
	f.Add(appendAnswer(3, []byte(`{"pdus":[]}`)))
	f.Add([]byte(EmptyAnswer))
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := ReadAnswer(body)
		if err != nil || !a.EntriesQueued {
			return
		}
		require.Positive(t, a.EntryID)
		_, _ = a.Decode()
	})
}

func TestErrorRoundTrip(t *testing.T) {
	w := httptest.NewRecorder()
	(&Error{Status: 429, Code: "M_LIMIT_EXCEEDED", Message: "slow", RetryAfter: 1500 * time.Millisecond}).Write(w)
	require.Equal(t, "2", w.Header().Get("Retry-After"))
	e := ParseError(w.Code, w.Header(), w.Body.Bytes())
	require.Equal(t, &Error{Status: 429, Code: "M_LIMIT_EXCEEDED", Message: "slow", RetryAfter: 1500 * time.Millisecond}, e)
	require.Equal(t, "429 M_LIMIT_EXCEEDED: slow", e.Error())

	e = ParseError(502, http.Header{"Retry-After": {"3"}}, []byte(`<html>`))
	require.Equal(t, &Error{Status: 502, RetryAfter: 3 * time.Second}, e)
	for _, body := range []string{`{"retry_after_ms":-5}`, `{"retry_after_ms":null}`, `null`, ``} {
		require.Zero(t, ParseError(429, nil, []byte(body)).RetryAfter, body)
	}
	require.Equal(t, 24*time.Hour, ParseError(429, nil, []byte(`{"retry_after_ms":1e300}`)).RetryAfter)
}
