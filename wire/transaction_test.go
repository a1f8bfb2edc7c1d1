package wire

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/stretchr/testify/require"
)

func TestReadContent(t *testing.T) {
	list := func(item string, n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(item+",", n), ",") + "]"
	}
	for body, want := range map[string]struct {
		pdus, edus int
		code       string
	}{
		`{"pdus":[]}`:                                {},
		`{"pdus":null}`:                              {},
		` { "pdus" : [ {} , {} ] } `:                 {pdus: 2},
		`{"edus":[{"edu_type":"x"}],"pdus":[]}`:      {edus: 1},
		`{"edus":null,"pdus":[{}]}`:                  {pdus: 1},
		`{"pdus":` + list(`{}`, 50) + `}`:            {pdus: 50},
		`{"edus":` + list(`{}`, 100) + `,"pdus":[]}`: {edus: 100},
		`{"pdus":` + list(`{}`, 51) + `}`:            {code: "M_BAD_JSON"},
		`{"edus":` + list(`{}`, 101) + `,"pdus":[]}`: {code: "M_BAD_JSON"},
		`{}`:                          {code: "M_BAD_JSON"},
		`{"edus":[]}`:                 {code: "M_BAD_JSON"},
		`[]`:                          {code: "M_BAD_JSON"},
		`null`:                        {code: "M_BAD_JSON"},
		`"pdus"`:                      {code: "M_BAD_JSON"},
		`{"pdus":{}}`:                 {code: "M_BAD_JSON"},
		`{"pdus":""}`:                 {code: "M_BAD_JSON"},
		`{"pdus":1}`:                  {code: "M_BAD_JSON"},
		`{"pdus":false}`:              {code: "M_BAD_JSON"},
		`{"pdus":[],"pdus":[]}`:       {code: "M_BAD_JSON"},
		`{"PDUs":[],"pdus":[]}`:       {code: "M_BAD_JSON"},
		`{"pdu\u017f":[],"pdus":[]}`:  {code: "M_BAD_JSON"},
		`{"Origin":"evil","pdus":[]}`: {code: "M_BAD_JSON"},
		`{"origin":"a","\u006frigin":"b","pdus":[]}`:          {code: "M_BAD_JSON"},
		`{"origin":1,"pdus":[]}`:                              {code: "M_BAD_JSON"},
		`{"origin_server_ts":"1","pdus":[]}`:                  {code: "M_BAD_JSON"},
		`{"origin_server_ts":-1,"pdus":[]}`:                   {code: "M_BAD_JSON"},
		`{"origin_server_ts":1.5,"pdus":[]}`:                  {code: "M_BAD_JSON"},
		`{"origin_server_ts":99999999999999999999,"pdus":[]}`: {code: "M_BAD_JSON"},
		`{"edus":{},"pdus":[]}`:                               {code: "M_BAD_JSON"},
		`{"edus":[null],"pdus":[]}`:                           {code: "M_BAD_JSON"},
		`{"edus":[[]],"pdus":[]}`:                             {code: "M_BAD_JSON"},
		`{"pdus":[null]}`:                                     {code: "M_BAD_JSON"},
		`{"pdus":[{},1]}`:                                     {code: "M_BAD_JSON"},
		`{"pdus":["{}"]}`:                                     {code: "M_BAD_JSON"},
		`{"pdus":[[{}]]}`:                                     {code: "M_BAD_JSON"},
		`{"pdus":[ [] ]}`:                                     {code: "M_BAD_JSON"},
		`{"pdus":[ true ]}`:                                   {code: "M_BAD_JSON"},
		`{"edus":[1],"pdus":[]}`:                              {code: "M_BAD_JSON"},
		`{"edus":[{"edu_type":1}],"pdus":[]}`:                 {code: "M_BAD_JSON"},
		`{"edus":[{"EDU_Type":1}],"pdus":[]}`:                 {code: "M_BAD_JSON"},
		`{"a":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `,"pdus":[]}`: {code: "M_BAD_JSON"},
		``:                      {code: "M_NOT_JSON"},
		`{`:                     {code: "M_NOT_JSON"},
		`{"pdus":[]}x`:          {code: "M_NOT_JSON"},
		"{\"pdus\":[\"\xff\"]}": {code: "M_NOT_JSON"},
	} {
		c, err := ReadContent([]byte(body))
		if want.code == "" {
			require.NoError(t, err, body)
			require.Equal(t, want.pdus, c.PDUs, body)
			require.Equal(t, want.edus, c.EDUs, body)
			continue
		}
		var e *Error
		require.ErrorAs(t, err, &e, "%s: %v", body, err)
		require.Equal(t, 400, e.Status, body)
		require.EqualValues(t, want.code, e.Code, body)
	}
}

func TestReadContentOrigin(t *testing.T) {
	for body, want := range map[string]Content{
		`{"pdus":[]}`:               {},
		`{"origin":"a","pdus":[]}`:  {Origin: "a", HasOrigin: true},
		`{"origin":"","pdus":[]}`:   {HasOrigin: true},
		`{"origin":null,"pdus":[]}`: {HasOrigin: true},
	} {
		c, err := ReadContent([]byte(body))
		require.NoError(t, err)
		require.Equal(t, want.Origin, c.Origin, body)
		require.Equal(t, want.HasOrigin, c.HasOrigin, body)
	}
}

func TestDigest(t *testing.T) {
	digest := func(body string) [32]byte {
		c, err := ReadContent([]byte(body))
		require.NoError(t, err)
		return c.Digest
	}
	const base = `{"edus":[{"content":{},"edu_type":"x"}],"origin_server_ts":1,"pdus":[{"a":1,"b":"\u00e9"}]}`
	for _, same := range []string{
		`{"edus":[{"content":{},"edu_type":"x"}],"origin_server_ts":2,"pdus":[{"a":1,"b":"é"}]}`,
		`{ "pdus" : [ {"b":"é", "a":1} ], "edus":[{"edu_type":"x","content":{}}], "more": 1 }`,
	} {
		require.Equal(t, digest(base), digest(same), same)
	}
	for _, other := range []string{
		`{"edus":[{"content":{},"edu_type":"x"}],"pdus":[{"a":1,"b":"é"},{}]}`,
		`{"edus":[{"content":{},"edu_type":"y"}],"pdus":[{"a":1,"b":"é"}]}`,
		`{"pdus":[{"a":1,"b":"é"}]}`,
		`{"pdus":[{"a":1,"b":"e"}]}`,
	} {
		require.NotEqual(t, digest(base), digest(other), other)
	}
	require.Equal(t, digest(`{"pdus":[]}`), digest(`{"edus":[],"pdus":null}`))
	require.Equal(t, digest(`{"pdus":[]}`), digest(`{"edus":null,"pdus":[]}`))
}

func TestWithOrigin(t *testing.T) {
	for body, want := range map[string]string{
		`{"pdus":[]}`:                  `{"origin":"b.example","pdus":[]}`,
		" {\"pdus\":[] }\n":            " {\"origin\":\"b.example\",\"pdus\":[] }\n",
		`{"origin":"a","pdus":[]}`:     `{"origin":"a","pdus":[]}`,
		`{"pdus":[],"origin":"a"}`:     `{"pdus":[],"origin":"a"}`,
		`{"x":{"origin":1},"pdus":[]}`: `{"origin":"b.example","x":{"origin":1},"pdus":[]}`,
	} {
		require.Equal(t, want, string(WithOrigin([]byte(body), "b.example")))
	}
}

// requireObjects: a PDU or an EDU is nothing but an object.
func requireObjects(t *testing.T, body []byte) {
	var lists struct {
		PDUs []any `json:"pdus"`
		EDUs []any `json:"edus"`
	}
	require.NoError(t, json.Unmarshal(body, &lists))
	for _, item := range slices.Concat(lists.PDUs, lists.EDUs) {
		require.IsType(t, map[string]any{}, item)
	}
}

// FuzzReadContent: a deployed node can decode all that we take, alone and in an
// answer; and we take nothing that it can't decode.
func FuzzReadContent(f *testing.F) {
	f.Add([]byte(`{"edus":[{"content":{},"edu_type":"x"}],"origin":"a","origin_server_ts":1,"pdus":[{"a":1}]}`))
	f.Add([]byte(` {"pdus" : null, "Edus": 1, "origin_server_ts": 1e3}`))
	f.Add([]byte(`{"pdus":[],"\u006frigin":"b","edus":[{"edu_type":null}]}`))
	f.Add([]byte(`{"pdus":[{"\"":1,"\ud800":"\ud800\u0041"}]}`))
	f.Add([]byte(`{"pdus":[{"a\\u0041":1}]}`))
	f.Add([]byte(`{"pdus":[{"x\":1,\"pdus":2}]}`))
	f.Add([]byte(`{"pdus":[],"x\":1,\"edus":[1]}`))
	f.Add([]byte(`{"edus":[null],"pdus":[]}`))
	f.Add([]byte(`{"pdus":[ null , "{", [], {} ]}`))
	f.Add([]byte(`{"pdus":[{"\"\ud800":"\ud800&00000"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := ReadContent(body)
		if err != nil {
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, 400, e.Status)
			return
		}
		var decoded gomatrixserverlib.Transaction
		require.NoError(t, json.Unmarshal(body, &decoded))
		require.Equal(t, decoded.Origin, c.Origin)
		require.Len(t, decoded.PDUs, c.PDUs)
		require.Len(t, decoded.EDUs, c.EDUs)
		require.LessOrEqual(t, c.PDUs, MaxPDUs)
		require.LessOrEqual(t, c.EDUs, MaxEDUs)
		requireObjects(t, body)

		transaction := WithOrigin(body, "signer.example")
		var answer fclient.RespGetRelayTransaction
		require.NoError(t, json.Unmarshal(appendAnswer(7, transaction), &answer))
		require.EqualValues(t, 7, answer.EntryID)
		require.True(t, answer.EntriesQueued)
		if !c.HasOrigin {
			require.EqualValues(t, "signer.example", answer.Transaction.Origin)
		}
		again, err := ReadContent(transaction)
		require.NoError(t, err)
		require.Equal(t, c.Digest, again.Digest)

		// A relay that encodes the lists anew doesn't make it other mail. (Half a
		// surrogate takes the character behind it along, if that is an escape.)
		if bytes.Contains(bytes.ToLower(body), []byte(`\ud`)) {
			return
		}
		var lists struct {
			PDUs []json.RawMessage `json:"pdus"`
			EDUs []json.RawMessage `json:"edus"`
		}
		require.NoError(t, json.Unmarshal(body, &lists))
		encoded, err := json.Marshal(lists)
		require.NoError(t, err)
		again, err = ReadContent(encoded)
		require.NoError(t, err)
		require.Equal(t, c.Digest, again.Digest)
	})
}
