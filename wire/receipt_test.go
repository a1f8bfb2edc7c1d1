package wire

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"
)

// goodReceipt is a receipt without its signature.
var goodReceipt = `{"destination":"` + string(testName) + `","items":[["1766620800000-1","` + digestText + `"],["2","` + digestText + `"]],` +
	`"origin":"A","ts":1766617200000,"type":"org.matrixrelay.receipt.v1"}`

const digestText = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA"

func testDigest() (digest [sha256.Size]byte) {
	for i := range digest {
		digest[i] = byte(i + 1)
	}
	return digest
}

func TestReceiptIsTaken(t *testing.T) {
	good := signedBy(t, testName, testKey, goodReceipt)
	for name, text := range map[string]string{
		"as it is":   good,
		"with space": strings.ReplaceAll(good, `":`, "\" :\n"),
		"with ext":   signedBy(t, testName, testKey, strings.Replace(goodReceipt, "{", `{"ext":{"n":[1]},`, 1)),
	} {
		receipt, err := ReadReceipt([]byte(text))
		require.NoError(t, err, name)
		for kind, keys := range verifiers() {
			require.NoError(t, receipt.Check(t.Context(), keys, recordTime), "%s, %s", name, kind)
		}
		require.Equal(t, testName, receipt.Destination)
		require.EqualValues(t, "A", receipt.Origin)
		require.EqualValues(t, 1766617200000, receipt.TS)
		require.Equal(t, []ReceiptItem{{"1766620800000-1", testDigest()}, {"2", testDigest()}}, receipt.Items)
		again, err := json.Marshal([]Receipt{receipt})
		require.NoError(t, err)
		require.JSONEq(t, "["+text+"]", string(again))
	}
}

// TestReceiptIsRefused: nothing but a receipt that its destination has signed as one is a
// receipt.
func TestReceiptIsRefused(t *testing.T) {
	const weak = "0100000000000000000000000000000000000000000000000000000000000000"
	good := signedBy(t, testName, testKey, goodReceipt)
	instead := func(old, new string) string {
		require.Contains(t, goodReceipt, old)
		return signedBy(t, testName, testKey, strings.Replace(goodReceipt, old, new, 1))
	}
	after := func(old, new string) string {
		require.Contains(t, good, old)
		return strings.Replace(good, old, new, 1)
	}
	items := func(list string) string {
		start, end := strings.Index(goodReceipt, "[["), strings.Index(goodReceipt, "]]")+2
		return signedBy(t, testName, testKey, goodReceipt[:start]+list+goodReceipt[end:])
	}
	for name, text := range map[string]string{
		"a key response that a notary signed": instead("{", `{"server_name":"x","verify_keys":{},`),
		"another member":                      instead("{", `{"x":1,`),
		"a PDU":                               signedBy(t, testName, testKey, `{"auth_events":[],"content":`+goodReceipt+`,"type":"m.room.message"}`),
		"an X-Matrix request":                 signedBy(t, testName, testKey, `{"content":`+goodReceipt+`,"destination":"R1","method":"PUT","origin":"`+string(testName)+`","uri":"/"}`),
		"a record":                            signedBy(t, testName, testKey, goodRecord),
		"another type":                        instead("receipt.v1", "receipt.v2"),
		"unsigned":                            after("{", `{"unsigned":{},`),
		"no signature":                        goodReceipt,
		"two signatures":                      signedBy(t, otherName, otherKey, good),
		"another server's signature":          signedBy(t, otherName, otherKey, goodReceipt),
		"-0":                                  after("1766617200000", "-0"),
		"a fraction":                          instead("1766617200000", "1766617200000.0"),
		"2^53":                                instead("1766617200000", "9007199254740992"),
		"no whole hour":                       instead("1766617200000", "1766617200001"),
		"half a surrogate":                    after(`"2"`, `"2\udc00"`),
		"half a surrogate in the origin":      after(`"A"`, `"A\ud800"`),
		"an upper-case name":                  signedBy(t, spec.ServerName(strings.ToUpper(string(testName))), testKey, strings.ReplaceAll(goodReceipt, string(testName), strings.ToUpper(string(testName)))),
		"an origin in upper case":             instead(`"A"`, `"`+strings.ToUpper(string(otherName))+`"`),
		"an origin with a weak key":           instead(`"A"`, `"`+weak+`"`),
		"a weak key":                          signedBy(t, weak, testKey, strings.Replace(goodReceipt, string(testName), weak, 1)),
		"no origin":                           instead(`"origin":"A",`, ""),
		"a key twice":                         after(`"origin":"A"`, `"origin":"A","origin":"A"`),
		"a key with an escape":                after(`"ts"`, `"t\u0073"`),
		"no items":                            items(`[]`),
		"null":                                items(`null`),
		"an item of null":                     items(`[null]`),
		"an item of one":                      items(`[["1"]]`),
		"an item of three":                    items(`[["1","` + digestText + `",""]]`),
		"a number for an ID":                  items(`[[1,"` + digestText + `"]]`),
		"no ID":                               items(`[["","` + digestText + `"]]`),
		"a long ID":                           items(`[["` + strings.Repeat("x", 256) + `","` + digestText + `"]]`),
		"a short digest":                      items(`[["1","AQID"]]`),
		"a padded digest":                     items(`[["1","` + digestText + `="]]`),
		"a digest with loose bits":            items(`[["1","` + digestText[:42] + `B"]]`),
		"a digest with a line feed":           items(`[["1","` + digestText + `\n"]]`),
		"too many items":                      items(`[` + strings.Repeat(`["1","`+digestText+`"],`, MaxReceiptItems) + `["1","` + digestText + `"]]`),
		"too long":                            instead("{", `{"ext":{"x":"`+strings.Repeat("x", MaxReceiptBytes)+`"},`),
		"not UTF-8":                           after(`"A"`, "\"A\xff\""),
		"two objects":                         good + good,
		"nothing":                             "",
	} {
		_, err := ReadReceipt([]byte(text))
		require.ErrorIs(t, err, ErrSigned, name)
	}
}

// TestReceiptIsSigned: a receipt that was changed in any way isn't its destination's any more.
func TestReceiptIsSigned(t *testing.T) {
	good := signedBy(t, testName, testKey, goodReceipt)
	for name, text := range map[string]string{
		"another origin":      strings.Replace(good, `"A"`, `"C"`, 1),
		"another item":        strings.Replace(good, `"2"`, `"3"`, 1),
		"another digest":      strings.Replace(good, digestText, strings.Repeat("A", 43), 1),
		"another time":        strings.Replace(good, "1766617200000", "1766620800000", 1),
		"another destination": strings.ReplaceAll(good, string(testName), string(otherName)),
	} {
		receipt, err := ReadReceipt([]byte(text))
		require.NoError(t, err, name)
		for kind, keys := range map[string]gomatrixserverlib.JSONVerifier{"known": HexKeys{}, "asked": noShortcut{HexKeys{}}} {
			require.ErrorIs(t, receipt.Check(t.Context(), keys, recordTime), ErrSigned, "%s, %s", name, kind)
		}
	}
}

// TestSignReceipts: all items that a receipt can have are in one, in order, and none is too
// large.
func TestSignReceipts(t *testing.T) {
	var items, want []ReceiptItem
	for i := range 1300 {
		id := fmt.Sprint(i)
		if i >= 700 {
			id = strings.Repeat("\"\u2028<", i%40) + id // which is longer in JSON
		}
		want = append(want, ReceiptItem{gomatrixserverlib.TransactionID(id), sha256.Sum256([]byte(id))})
	}
	items = append([]ReceiptItem{{"\xff", testDigest()}, {"", testDigest()}, {gomatrixserverlib.TransactionID(strings.Repeat("x", 256)), testDigest()}}, want...)
	receipts, err := SignReceipts("A", items, recordTime, testIdentity())
	require.NoError(t, err)
	require.Len(t, receipts[0].Items, MaxReceiptItems)
	var got []ReceiptItem
	for _, receipt := range receipts {
		require.LessOrEqual(t, len(receipt.JSON()), MaxReceiptBytes)
		require.EqualValues(t, recordTime.Truncate(time.Hour).UnixMilli(), receipt.TS)
		require.NoError(t, receipt.Check(t.Context(), HexKeys{}, recordTime))
		got = append(got, receipt.Items...)
	}
	require.Equal(t, want, got)
	none, err := SignReceipts("A", items[:3], recordTime, testIdentity())
	require.NoError(t, err)
	require.Empty(t, none)
	_, err = SignReceipts("A", items, recordTime, fclient.SigningIdentity{ServerName: testName})
	require.Error(t, err)
	_, err = SignReceipts("no name", items, recordTime, testIdentity())
	require.ErrorIs(t, err, ErrSigned)
	early, err := SignReceipts("A", want[:1], time.Unix(-5, 0), testIdentity())
	require.NoError(t, err)
	require.Zero(t, early[0].TS)
}

func signReceipt(t testing.TB, ids ...gomatrixserverlib.TransactionID) Receipt {
	t.Helper()
	var items []ReceiptItem
	for _, id := range ids {
		items = append(items, ReceiptItem{id, testDigest()})
	}
	receipts, err := SignReceipts("A", items, recordTime, testIdentity())
	require.NoError(t, err)
	require.Len(t, receipts, 1)
	return receipts[0]
}

// TestReceiptsInRequests: one side reads all that the other writes.
func TestReceiptsInRequests(t *testing.T) {
	one, other := signReceipt(t, "1"), signReceipt(t, "2", `"<`)
	for _, body := range []any{Fetch{EntryID: 7, Receipts: []Receipt{one, other}}, ReceiptsBody{Receipts: []Receipt{one, other}}} {
		text, err := json.Marshal(body)
		require.NoError(t, err)
		receipts, err := ReadReceipts(text)
		require.NoError(t, err)
		require.Equal(t, []Receipt{one, other}, receipts)
	}
	text, err := json.Marshal(Fetch{EntryID: 7})
	require.NoError(t, err)
	require.JSONEq(t, `{"entry_id":7}`, string(text))
	for _, body := range []string{`{}`, `{"entry_id":7}`, `{"receipts":null}`, `{"receipts":[]}`} {
		receipts, err := ReadReceipts([]byte(body))
		require.NoError(t, err)
		require.Empty(t, receipts)
	}
	nine, err := json.Marshal(ReceiptsBody{Receipts: []Receipt{one, one, one, one, one, one, one, one, one}})
	require.NoError(t, err)
	for _, body := range []string{`{"receipts":{}}`, `{"receipts":[7]}`, `{"receipts":[{}]}`, string(nine), `[]`, `{`} {
		_, err := ReadReceipts([]byte(body))
		var e *Error
		require.ErrorAs(t, err, &e, body)
		require.Equal(t, 400, e.Status)
	}
	require.Equal(t, 7, Cleared(ClearedAnswer(7)))
	for _, none := range []string{`{}`, `null`, ``, `{"cleared":-1}`, `{"cleared":"7"}`} {
		require.Zero(t, Cleared([]byte(none)), none)
	}
}

func TestReceiptsInAnswers(t *testing.T) {
	one, other := signReceipt(t, "1"), signReceipt(t, "2")
	list := NewReceipts{Receipts: []json.RawMessage{one.JSON(), other.JSON()}, Next: 9}
	for _, answer := range []string{SentAnswer, ProvenAnswer, `{"proven":true,"relays_seq":7}`} {
		before := []byte(answer)
		text := list.AnswerWith(before)
		require.Equal(t, answer, string(before))
		require.True(t, json.Valid(text), string(text))
		require.Equal(t, IsProven(before), IsProven(text))
		require.Equal(t, RelaysSeq(before), RelaysSeq(text))
		receipts, next, ok := ReadNewReceipts(text)
		require.True(t, ok)
		require.EqualValues(t, 9, next)
		require.Equal(t, []Receipt{one, other}, receipts)
	}
	require.JSONEq(t, `{"receipts":[],"receipts_next":5}`, string(NewReceipts{Next: 5}.AnswerWith([]byte(SentAnswer))))
	receipts, next, ok := ReadNewReceipts([]byte(`{"receipts":[{},` + string(one.JSON()) + `,7],"receipts_next":3}`))
	require.True(t, ok)
	require.EqualValues(t, 3, next)
	require.Equal(t, []Receipt{one}, receipts)
	for _, none := range []string{`{}`, `null`, ``, `{"receipts":{}}`, `{"receipts":[],"receipts_next":-1}`, `{"receipts":[],"receipts_next":9007199254740992}`} {
		_, _, ok := ReadNewReceipts([]byte(none))
		require.False(t, ok, none)
	}
}

func TestReceiptsURIs(t *testing.T) {
	r, err := ParseURI(AskReceiptsURI("[::1]:8448", 17))
	require.NoError(t, err)
	require.Equal(t, Route{Endpoint: Receipts, Server: "[::1]:8448", Query: Query{After: 17}}, r)
	r, err = ParseURI(ReceiptsURI)
	require.NoError(t, err)
	require.Equal(t, Route{Endpoint: Receipts}, r)
	user, err := UserAt("b")
	require.NoError(t, err)
	for query, want := range map[string]Query{"": {}, "?x": {}, ReceiptsQuery(0): {Receipts: true}, ReceiptsQuery(5): {Receipts: true, After: 5}} {
		r, err = ParseURI(SendRelayURI("1", user) + query)
		require.NoError(t, err)
		require.Equal(t, Route{Endpoint: SendRelay, TransactionID: "1", User: user, Query: want}, r)
	}
	for _, wrong := range []string{
		ReceiptsURI + "/x", ReceiptsURI + "?after=1", ReceiptsURI + "?destination=b&after=-1", ReceiptsURI + "?destination=b&destination=b",
		ReceiptsURI + "?destination=no%20name", ReceiptsURI + "?%zz", SendRelayURI("1", user) + "?receipts=x", SendRelayURI("1", user) + "?receipts=1&receipts=1",
	} {
		_, err := ParseURI(wrong)
		require.ErrorAs(t, err, new(*Error), wrong)
	}
}

// FuzzReceipt: of any bytes, a receipt is taken only if gomatrixserverlib finds the same
// signature right, and it is read again as the same from its own encoding.
func FuzzReceipt(f *testing.F) {
	f.Add([]byte(signedBy(f, testName, testKey, goodReceipt)))
	f.Add([]byte(signedBy(f, testName, testKey, strings.Replace(goodReceipt, "{", `{"ext":{"a":[{"b":1},"\u00e9"]},`, 1))))
	f.Add([]byte(strings.Replace(signedBy(f, testName, testKey, goodReceipt), `"2"`, `"\ud83d\ude00<"`, 1)))
	f.Fuzz(func(t *testing.T, text []byte) {
		receipt, err := ReadReceipt(text)
		if err != nil {
			require.ErrorIs(t, err, ErrSigned)
			return
		}
		require.True(t, json.Valid(text))
		again, err := ReadReceipt(receipt.JSON())
		require.NoError(t, err)
		require.Equal(t, receipt, again)
		here := receipt.Check(t.Context(), HexKeys{}, recordTime)
		there := receipt.Check(t.Context(), noShortcut{HexKeys{}}, recordTime)
		require.Equal(t, here == nil, there == nil, "%v, %v", here, there)
		body, err := json.Marshal(Fetch{Receipts: []Receipt{receipt}})
		require.NoError(t, err)
		list, err := ReadReceipts(body)
		require.NoError(t, err)
		require.Equal(t, []Receipt{receipt}, list)
	})
}
