package wire

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"
)

var recordTime = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func testIdentity() fclient.SigningIdentity {
	return fclient.SigningIdentity{ServerName: testName, KeyID: "ed25519:1", PrivateKey: testKey}
}

// signRecord makes a good record of testName's.
func signRecord(t testing.TB, seq uint64, relays ...spec.ServerName) RelayRecord {
	t.Helper()
	draft := RelayRecord{Seq: seq, Expires: uint64(recordTime.Add(90 * 24 * time.Hour).UnixMilli())}
	for _, relay := range relays {
		draft.Relays = append(draft.Relays, RecordRelay{Name: relay})
	}
	record, err := SignRelayRecord(draft, testIdentity())
	require.NoError(t, err)
	return record
}

// signedBy signs any object as a homeserver or a notary does.
func signedBy(t testing.TB, server spec.ServerName, key ed25519.PrivateKey, object string) string {
	t.Helper()
	signed, err := gomatrixserverlib.SignJSON(string(server), "ed25519:1", key, []byte(object))
	require.NoError(t, err)
	return string(signed)
}

// goodRecord is a record without its signature.
var goodRecord = `{"expires":1774396800000,"receipts":true,"relays":[{"name":"R1"},{"at":["https://r2.example:8448"],"name":"R2"}],` +
	`"seq":1766620800000,"server":"` + string(testName) + `","type":"org.matrixrelay.relays.v1"}`

func TestRecordIsTaken(t *testing.T) {
	good := signedBy(t, testName, testKey, goodRecord)
	for name, text := range map[string]string{
		"as it is":   good,
		"with space": strings.ReplaceAll(strings.ReplaceAll(good, `":`, "\" :\n"), "{", "{ "),
		"with ext":   signedBy(t, testName, testKey, strings.Replace(goodRecord, "{", `{"ext":{"n":[1,{"é":"\u0001"}]},`, 1)),
	} {
		record, err := ReadRelayRecord([]byte(text))
		require.NoError(t, err, name)
		for kind, keys := range verifiers() {
			require.NoError(t, record.Check(t.Context(), keys, recordTime), "%s, %s", name, kind)
		}
		require.Equal(t, testName, record.Server)
		require.EqualValues(t, 1766620800000, record.Seq)
		require.EqualValues(t, 1774396800000, record.Expires)
		require.True(t, record.Receipts)
		require.Equal(t, []RecordRelay{{Name: "R1"}, {Name: "R2", At: []string{"https://r2.example:8448"}}}, record.Relays)
		again, err := ReadRelayRecord(record.JSON())
		require.NoError(t, err)
		require.Equal(t, record.Hash(), again.Hash())
		linked, err := ReadLink("\t" + record.Link()[:40] + "\r\n " + record.Link()[40:] + "\n")
		require.NoError(t, err)
		require.Equal(t, record, linked)
	}
}

// TestRecordIsRefused: nothing but a record that its server has signed as one is a record.
func TestRecordIsRefused(t *testing.T) {
	const weak = "0100000000000000000000000000000000000000000000000000000000000000"
	good := signedBy(t, testName, testKey, goodRecord)
	instead := func(old, new string) string {
		require.Contains(t, goodRecord, old)
		return signedBy(t, testName, testKey, strings.Replace(goodRecord, old, new, 1))
	}
	after := func(old, new string) string {
		require.Contains(t, good, old)
		return strings.Replace(good, old, new, 1)
	}
	added := func(member string) string { return instead("{", "{"+member+",") }
	nine := strings.Repeat(`{"name":"R0"},`, 9)
	for i := range 9 {
		nine = strings.Replace(nine, "R0", fmt.Sprint("S", i), 1)
	}
	for name, text := range map[string]string{
		"a key response that a notary signed": added(`"old_verify_keys":{},"server_name":"x","valid_until_ts":1,"verify_keys":{}`),
		"another member":                      added(`"x":1`),
		"another member in a relay":           instead(`{"name":"R1"`, `{"x":1,"name":"R1"`),
		"a PDU":                               signedBy(t, testName, testKey, `{"auth_events":[],"content":`+goodRecord+`,"type":"m.room.message"}`),
		"an X-Matrix request":                 signedBy(t, testName, testKey, `{"content":`+goodRecord+`,"destination":"R1","method":"PUT","origin":"`+string(testName)+`","uri":"/"}`),
		"another type":                        instead("relays.v1", "receipt.v1"),
		"unsigned":                            after("{", `{"unsigned":{},`),
		"no signature":                        goodRecord,
		"two signatures":                      signedBy(t, otherName, otherKey, good),
		"two keys":                            after(`"ed25519:1":`, `"ed25519:2":"AA","ed25519:1":`),
		"another server's signature":          signedBy(t, otherName, otherKey, goodRecord),
		"a short signature":                   after(`"ed25519:1":"`, `"ed25519:1":"AA","x":"`),
		"another kind of key":                 after("ed25519:1", "rsa:1"),
		"a space in the key's ID":             after("ed25519:1", "ed25519:1 not valid at 1"),
		"-0":                                  after("1766620800000", "-0"),
		"-0 in ext":                           strings.Replace(added(`"ext":{"n":0}`), `"n":0`, `"n":-0`, 1),
		"a fraction in ext":                   added(`"ext":{"n":[0.5]}`),
		"a large number in ext":               added(`"ext":{"n":9007199254740992}`),
		"a negative number":                   instead("1766620800000", "-1"),
		"a fraction":                          instead("1766620800000", "1.0"),
		"an exponent":                         instead("1766620800000", "1e3"),
		"2^53":                                instead("1766620800000", "9007199254740992"),
		"2^53 to expire":                      instead("1774396800000", "9007199254740992"),
		"half a surrogate":                    after("R1", `R1\ud800`),
		"half a surrogate in ext":             strings.Replace(added(`"ext":{"n":"x"}`), `"x"`, `"\udc00"`, 1),
		"a key twice":                         after(`"receipts":true`, `"receipts":true,"receipts":true`),
		"a key in another case":               instead(`"seq"`, `"Seq"`),
		"a key with an escape":                after(`"seq"`, `"s\u0065q"`),
		"no seq":                              instead(`"seq":1766620800000,`, ""),
		"no receipts":                         instead(`"receipts":true,`, ""),
		"null":                                instead("true", "null"),
		"a string for a number":               instead("1766620800000", `"1766620800000"`),
		"ext that isn't an object":            added(`"ext":[]`),
		"no relay":                            instead(`{"name":"R1"},{"at":["https://r2.example:8448"],"name":"R2"}`, ""),
		"nine relays":                         instead(`{"name":"R1"}`, nine+`{"name":"R1"}`),
		"a relay twice":                       instead("R1", "R2"),
		"the server as its relay":             instead("R1", string(testName)),
		"a relay in upper case":               instead("R1", strings.ToUpper(string(otherName))),
		"a relay with a weak key":             instead("R1", weak),
		"a relay without a name":              instead("R1", ""),
		"three addresses":                     instead(`"https://r2.example:8448"`, `"https://a","https://b","https://c"`),
		"no addresses":                        instead(`"https://r2.example:8448"`, ""),
		"http":                                instead("https://", "http://"),
		"a path":                              instead(":8448", ":8448/"),
		"a user":                              instead("r2.example", "u@r2.example"),
		"a query":                             instead(":8448", "?x"),
		"upper case":                          signedBy(t, spec.ServerName(strings.ToUpper(string(testName))), testKey, strings.Replace(goodRecord, string(testName), strings.ToUpper(string(testName)), 1)),
		"a weak key":                          signedBy(t, weak, testKey, strings.Replace(goodRecord, string(testName), weak, 1)),
		"too long":                            added(`"ext":{"x":"` + strings.Repeat("x", MaxRecordBytes) + `"}`),
		"not UTF-8":                           after("R1", "R\xff"),
		"two objects":                         good + good,
		"a list":                              "[" + good + "]",
		"nothing":                             "",
	} {
		_, err := ReadRelayRecord([]byte(text))
		require.ErrorIs(t, err, ErrSigned, name)
	}
}

// TestRecordIsSigned: a record that was changed in any way isn't its server's any more.
func TestRecordIsSigned(t *testing.T) {
	good := signedBy(t, testName, testKey, goodRecord)
	for name, text := range map[string]string{
		"another relay":  strings.Replace(good, "R1", "R3", 1),
		"another number": strings.Replace(good, "1766620800000", "1766620800001", 1),
		"ext":            strings.Replace(good, "{", `{"ext":{},`, 1),
		"another server": strings.ReplaceAll(good, string(testName), string(otherName)),
	} {
		record, err := ReadRelayRecord([]byte(text))
		require.NoError(t, err, name)
		for kind, keys := range map[string]gomatrixserverlib.JSONVerifier{"known": HexKeys{}, "asked": noShortcut{HexKeys{}}} {
			require.ErrorIs(t, record.Check(t.Context(), keys, recordTime), ErrSigned, "%s, %s", name, kind)
		}
	}
}

// TestRecordOrder: in whichever order records come, and however often, one of them holds.
func TestRecordOrder(t *testing.T) {
	records := []RelayRecord{
		signRecord(t, 5, "R1"), signRecord(t, 7, "R2"), signRecord(t, 7, "R3"), signRecord(t, 6, "R4"), signRecord(t, 7, "R5"),
	}
	smallest := records[1]
	for _, r := range []RelayRecord{records[2], records[4]} {
		if a, b := r.Hash(), smallest.Hash(); string(a[:]) < string(b[:]) {
			smallest = r
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		held := records[random.IntN(len(records))]
		for _, i := range append(random.Perm(len(records)), random.Perm(len(records))...) {
			replaces, err := records[i].Replaces(t.Context(), &held, HexKeys{}, recordTime)
			require.NoError(t, err)
			if replaces {
				held = records[i]
			}
		}
		require.Equal(t, smallest, held)
	}
}

// noKeys fails to look keys up.
type noKeys struct{}

func (noKeys) VerifyJSONs(context.Context, []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	return nil, context.DeadlineExceeded
}

// TestStolenKey: the record that a thief signed with the greatest number loses once the
// key was withdrawn, and never before, nor because no key can be had now.
func TestStolenKey(t *testing.T) {
	now := time.Now()
	stolen, next := signRecord(t, MaxInteger, "thief"), signRecord(t, NextSeq(now, 0), "R1")
	valid := gomatrixserverlib.KeyRing{KeyDatabase: ringOf()}
	replaces, err := next.Replaces(t.Context(), &stolen, valid, now)
	require.NoError(t, err)
	require.False(t, replaces)

	withdrawn := gomatrixserverlib.KeyRing{KeyDatabase: ringOf(func(k *gomatrixserverlib.PublicKeyLookupResult) {
		k.ValidUntilTS, k.ExpiredTS = 0, spec.AsTimestamp(now.Add(-time.Hour))
	})}
	replaces, err = next.Replaces(t.Context(), &stolen, withdrawn, now)
	require.NoError(t, err)
	require.True(t, replaces)

	replaces, err = next.Replaces(t.Context(), &stolen, gomatrixserverlib.KeyRing{KeyDatabase: ring{}}, now)
	require.NoError(t, err)
	require.False(t, replaces)
	_, err = next.Replaces(t.Context(), &stolen, noKeys{}, now)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// TestKeyOfAbsentServer: a record counts whose key was valid when it was made, though
// its server has been away for longer than that.
func TestKeyOfAbsentServer(t *testing.T) {
	made := time.Now().Add(-20 * 24 * time.Hour)
	record := signRecord(t, NextSeq(made, 0), "R1")
	keys := gomatrixserverlib.KeyRing{KeyDatabase: ringOf(func(k *gomatrixserverlib.PublicKeyLookupResult) {
		k.ValidUntilTS = spec.AsTimestamp(made.Add(24 * time.Hour))
	})}
	require.NoError(t, record.Check(t.Context(), keys, time.Now()))
	late := signRecord(t, NextSeq(time.Now(), 0), "R1")
	require.ErrorIs(t, late.Check(t.Context(), keys, time.Now()), ErrKeyNotValid)
	require.ErrorIs(t, record.Check(t.Context(), saysNoKey{}, time.Now()), ErrNoKey)
}

func TestNextSeqAndClocks(t *testing.T) {
	day := uint64(time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC).UnixMilli())
	require.Equal(t, day, NextSeq(recordTime, 0))
	require.Equal(t, day, NextSeq(recordTime, day-1))
	require.Equal(t, day+1, NextSeq(recordTime, day))
	require.Equal(t, day, NextSeq(recordTime.In(time.FixedZone("east", 14*3600)), 0))
	for _, unset := range []time.Time{time.Unix(0, 0), time.Unix(-5, 0), time.Date(2101, 1, 1, 0, 0, 0, 0, time.UTC)} {
		require.EqualValues(t, 1, NextSeq(unset, 0))
		require.Equal(t, day+1, NextSeq(unset, day))
	}
	record := signRecord(t, day, "R1") // which expires in 90 days
	for at, fresh := range map[time.Time]bool{
		recordTime: true, recordTime.Add(-24 * time.Hour): true, recordTime.Add(-24*time.Hour - time.Millisecond): false,
		recordTime.Add(90*24*time.Hour - time.Millisecond): true, recordTime.Add(90 * 24 * time.Hour): false, time.Unix(-1, 0): false,
	} {
		require.Equal(t, fresh, record.IsFresh(at), at)
	}
	// No clock makes a good record a wrong one.
	for _, now := range []time.Time{time.Unix(-1, 0), time.Unix(0, 0), recordTime.AddDate(0, 0, 40), recordTime.AddDate(0, 0, -40), recordTime.AddDate(80, 0, 0)} {
		require.NoError(t, record.Check(t.Context(), HexKeys{}, now))
	}
}

func TestWrongLink(t *testing.T) {
	record := signRecord(t, 1, "R1")
	link := record.Link()
	for name, wrong := range map[string]string{
		"nothing": "", "another": "https://example.org", "no record": linkPrefix, "cut off": link[:len(link)-5],
		"padded": link + "=", "too long": linkPrefix + strings.Repeat("A", 2*MaxRecordBytes),
		"another object": linkPrefix + base64.RawURLEncoding.EncodeToString([]byte(`{}`)),
	} {
		_, err := ReadLink(wrong)
		require.ErrorIs(t, err, ErrSigned, name)
	}
	_, err := SignRelayRecord(RelayRecord{Seq: 1}, testIdentity())
	require.ErrorIs(t, err, ErrSigned) // without relays
	_, err = SignRelayRecord(RelayRecord{Seq: 1}, fclient.SigningIdentity{ServerName: testName})
	require.Error(t, err)
}

// FuzzRelayRecord: of any bytes, a record is taken only if gomatrixserverlib finds the same
// signature right, and it is read again as the same from its own encoding.
func FuzzRelayRecord(f *testing.F) {
	f.Add([]byte(signedBy(f, testName, testKey, goodRecord)))
	f.Add([]byte(signedBy(f, testName, testKey, strings.Replace(goodRecord, "{", `{"ext":{"a":[{"b":1},"\u00e9"]},`, 1))))
	f.Add([]byte(strings.Replace(signedBy(f, testName, testKey, goodRecord), "true", "-0", 1)))
	f.Fuzz(func(t *testing.T, text []byte) {
		record, err := ReadRelayRecord(text)
		if err != nil {
			require.ErrorIs(t, err, ErrSigned)
			return
		}
		require.True(t, json.Valid(text))
		again, err := ReadRelayRecord(record.JSON())
		require.NoError(t, err)
		require.Equal(t, record, again)
		linked, err := ReadLink(record.Link())
		require.NoError(t, err)
		require.Equal(t, record, linked)
		here := record.Check(t.Context(), HexKeys{}, recordTime)
		there := record.Check(t.Context(), noShortcut{HexKeys{}}, recordTime)
		require.Equal(t, here == nil, there == nil, "%v, %v", here, there)
	})
}
