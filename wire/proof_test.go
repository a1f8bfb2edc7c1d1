package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"
)

// otherKey is of a server that signs anything that it likes.
var (
	otherKey  = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, 32))
	otherName = spec.ServerName(hex.EncodeToString(otherKey.Public().(ed25519.PublicKey)))
)

const (
	proofTo = spec.ServerName("b.example")
	proofID = "1766620800000-000042"
)

// The contents that are signed in these tests, with and without an origin.
var (
	proofWithOrigin = `{"edus":[{"content":{"typing":true},"edu_type":"m.typing"}],"origin":"` + string(testName) +
		`","origin_server_ts":1766620800000,"pdus":[{"body":"a\"é\u0001","n":[1,-2,0.5]}]}`
	proofWithout = strings.Replace(proofWithOrigin, `"origin":"`+string(testName)+`",`, "", 1)
)

// verifiers are the ways to a key: known from the name, asked for, in a key
// ring.
func verifiers() map[string]gomatrixserverlib.JSONVerifier {
	return map[string]gomatrixserverlib.JSONVerifier{
		"known": HexKeys{}, "asked": noShortcut{HexKeys{}}, "key ring": gomatrixserverlib.KeyRing{KeyDatabase: ringOf()},
	}
}

// signedByFclient is a request that unmodified fclient made and signed, as it
// arrives.
func signedByFclient(t testing.TB, uri string, content []byte) SignedRequest {
	t.Helper()
	r := fclient.NewFederationRequest(http.MethodPut, testName, testRelay, uri)
	require.NoError(t, r.SetContent(json.RawMessage(content)))
	require.NoError(t, r.Sign(testName, "ed25519:1", testKey))
	request, err := r.HTTPRequest()
	require.NoError(t, err)
	return SignedRequest{http.MethodPut, request.URL.RequestURI(), request.Header.Values("Authorization"), r.Content(), nil, nil}
}

// prove makes the proof of a signed request, as a relay that verified it.
func prove(t testing.TB, r SignedRequest) Proof {
	t.Helper()
	_, err := ReadContent(r.Content)
	require.NoError(t, err)
	p, ok := ProofOf(&r, testRelay)
	require.True(t, ok)
	return p
}

func proofURI(id string, to spec.ServerName) string {
	user, err := UserAt(to)
	if err != nil {
		panic(err)
	}
	return SendRelayURI(gomatrixserverlib.TransactionID(id), user)
}

func signedProof(t testing.TB, content string) (Proof, SignedRequest) {
	r := signedByFclient(t, proofURI(proofID, proofTo), []byte(content))
	return prove(t, r), r
}

func TestProofProves(t *testing.T) {
	for name, keys := range verifiers() {
		for _, content := range []string{proofWithOrigin, proofWithout, `{"pdus":[]}`, `{"origin_server_ts":null,"pdus":null}`} {
			p, r := signedProof(t, content)
			signed, err := ReadContent(r.Content)
			require.NoError(t, err)
			want := Proven{Origin: testName, TransactionID: proofID, Content: r.Content, Digest: signed.Digest}
			if strings.Contains(content, "1766620800000") {
				want.Signed = 1766620800000
			}
			encoded, err := ReadProof(p.JSON())
			require.NoError(t, err)
			require.Equal(t, p, encoded)

			got, err := p.Check(t.Context(), keys, r.Content, proofTo)
			require.NoError(t, err, name)
			require.Equal(t, want, got)
			got, err = p.Check(t.Context(), keys, WithOrigin(r.Content, testName), proofTo)
			require.NoError(t, err, "as it stands in an answer")
			require.Equal(t, want, got)
		}
	}
}

// The requests that deployed nodes send, as their client makes them.
func TestProofOfATransaction(t *testing.T) {
	transaction := gomatrixserverlib.Transaction{
		Origin: testName, OriginServerTS: 5, PDUs: []json.RawMessage{json.RawMessage(`{"b":"<é&\n>","a":[1.5,null]}`)},
		EDUs: []gomatrixserverlib.EDU{{Type: "m.typing", Content: spec.RawJSON(`{"z":1,"a":2}`)}},
	}
	encoded, err := json.Marshal(transaction)
	require.NoError(t, err)
	p, r := signedProof(t, string(encoded))
	require.Empty(t, p.Origin, "it is in the transaction")
	proven, err := p.Check(t.Context(), HexKeys{}, r.Content, proofTo)
	require.NoError(t, err)
	require.EqualValues(t, 5, proven.Signed)
}

// Proofs are kept with all mail: they must be short.
func TestProofIsShort(t *testing.T) {
	require.Len(t, proofID, 20)
	r := fclient.NewFederationRequest(http.MethodPut, testName, otherName, proofURI(proofID, otherName))
	require.NoError(t, r.SetContent(json.RawMessage(`{"pdus":[]}`)))
	require.NoError(t, r.Sign(testName, "ed25519:dendrite-demo-yggdrasil", testKey))
	request, err := r.HTTPRequest()
	require.NoError(t, err)
	p := prove(t, SignedRequest{http.MethodPut, request.URL.RequestURI(), request.Header.Values("Authorization"), r.Content(), nil, nil})
	size := len(p.JSON())
	p.Origin = ""
	t.Logf("%d bytes, %d if the transaction has its origin", size, len(p.JSON()))
	require.LessOrEqual(t, len(p.JSON()), 400)
	require.LessOrEqual(t, size, 500)
}

// The size of a plain proof is that of its JSON, which isn't made to know it.
func TestProofSize(t *testing.T) {
	var plain strings.Builder
	for c := byte(0); c < 0x80; c++ {
		if isPlain(string(c)) {
			plain.WriteByte(c)
		}
	}
	for _, origin := range []string{"", "a.example", plain.String()} {
		p := Proof{Relay: "r.example", URI: plain.String(), Key: "ed25519:" + gomatrixserverlib.KeyID(plain.String()), Signature: "sig", Origin: spec.ServerName(origin)}
		require.Len(t, p.JSON(), p.size())
	}
}

func TestNoProof(t *testing.T) {
	uri := proofURI("1", proofTo)
	good := signedByFclient(t, uri, []byte(`{"pdus":[]}`))
	header := good.Authorization[0]
	for name, r := range map[string]SignedRequest{
		"two signatures": {"PUT", uri, []string{header, header}, good.Content, nil, nil},
		"no signature":   {"PUT", uri, nil, good.Content, nil, nil},
		"GET":            {"GET", uri, good.Authorization, good.Content, nil, nil},
		"long":           {"PUT", uri + "?" + strings.Repeat("x", MaxProofBytes), good.Authorization, good.Content, nil, nil},
		"odd URI":        {"PUT", uri + `?"`, good.Authorization, good.Content, nil, nil},
		"odd key":        {"PUT", uri, []string{strings.Replace(header, "ed25519:1", "ed25519: 1", 1)}, good.Content, nil, nil},
		"odd relay":      {"PUT", uri, []string{strings.Replace(header, testRelay, "é", 1)}, good.Content, nil, nil},
		"short":          {"PUT", uri, []string{strings.Replace(header, `sig="`, `sig="AA",x="`, 1)}, good.Content, nil, nil},
		"key in escapes": {"PUT", uri, good.Authorization, []byte(`{"pdus":[{"\\":1}]}`), nil, nil},
	} {
		_, err := ReadContent(r.Content)
		require.NoError(t, err, name)
		_, ok := ProofOf(&r, testRelay)
		require.False(t, ok, name)
	}
}

// A header without a destination is for the relay that got it.
func TestProofWithoutDestination(t *testing.T) {
	_, r := signedProof(t, proofWithOrigin)
	r.Authorization = []string{strings.Replace(r.Authorization[0], `,destination="`+testRelay+`"`, "", 1)}
	p := prove(t, r)
	require.EqualValues(t, testRelay, p.Relay)
	_, err := p.Check(t.Context(), HexKeys{}, r.Content, proofTo)
	require.NoError(t, err)
}

// requireNotForged: a transaction that somebody has changed proves nothing, or
// just the signed bytes.
func requireNotForged(t testing.TB, keys gomatrixserverlib.JSONVerifier, p Proof, transaction, signed []byte) (proven bool) {
	got, err := p.Check(t.Context(), keys, transaction, proofTo)
	if err != nil {
		requireRefused(t, keys, err)
		require.Equal(t, Proven{}, got)
		return false
	}
	require.Equal(t, string(signed), string(got.Content), "%s", transaction)
	require.Equal(t, testName, got.Origin)
	require.EqualValues(t, proofID, got.TransactionID)
	return true
}

// requireRefused: where keys aren't names, a forger may also name an origin, or
// a time, of which no key is known.
func requireRefused(t testing.TB, keys gomatrixserverlib.JSONVerifier, err error) {
	if _, ok := keys.(gomatrixserverlib.KeyRing); ok && errors.Is(err, ErrNoKey) {
		return
	}
	require.ErrorIs(t, err, ErrProof)
}

// A relay that changes any byte of the mail that it carries is found out.
func TestEveryByteCounts(t *testing.T) {
	for name, keys := range verifiers() {
		for _, content := range []string{proofWithOrigin, proofWithout} {
			p, r := signedProof(t, content)
			for _, sent := range [][]byte{r.Content, WithOrigin(r.Content, testName)} {
				same := 0
				for i := range sent {
					for _, changed := range changesAt(sent, i) {
						if requireNotForged(t, keys, p, changed, r.Content) {
							same++
						}
					}
				}
				require.Less(t, same, len(sent), name)
				require.Positive(t, same, "spaces change nothing")
			}
		}
	}
}

// changesAt are other bytes at i, more of them, and one less.
func changesAt(content []byte, i int) [][]byte {
	changes := [][]byte{append(bytes.Clone(content[:i]), content[i+1:]...)}
	for _, other := range []byte{content[i] ^ 1, content[i] ^ 0x20, content[i] ^ 0x80, '"', '\\', '0', ' ', ',', 0} {
		inserted := append(append(bytes.Clone(content[:i]), other), content[i:]...)
		changes = append(changes, inserted)
		if other != content[i] {
			changed := bytes.Clone(content)
			changed[i] = other
			changes = append(changes, changed)
		}
	}
	return changes
}

// As is one that changes the fields beside it.
func TestChangedProofs(t *testing.T) {
	other := signedByFclient(t, proofURI(proofID, proofTo), []byte(`{"pdus":[]}`))
	for name, keys := range verifiers() {
		for _, content := range []string{proofWithOrigin, proofWithout} {
			p, r := signedProof(t, content)
			_, err := p.Check(t.Context(), keys, r.Content, "c.example")
			require.ErrorIs(t, err, ErrProof, "asked by another server")
			for change, damage := range map[string]func(*Proof){
				"other user":        func(p *Proof) { p.URI = strings.Replace(p.URI, "user", "other", 1) },
				"other transaction": func(p *Proof) { p.URI = proofURI("1766620800000-000043", proofTo) },
				"other destination": func(p *Proof) { p.URI = proofURI(proofID, "c.example") },
				"other escapes":     func(p *Proof) { p.URI = strings.Replace(p.URI, "user", "%75ser", 1) },
				"a query":           func(p *Proof) { p.URI += "?x" },
				"other endpoint":    func(p *Proof) { p.URI = strings.Replace(p.URI, "send_relay", "relay_txn", 1) },
				"no URI":            func(p *Proof) { p.URI = "" },
				"other relay":       func(p *Proof) { p.Relay = "relay2.example" },
				"no relay":          func(p *Proof) { p.Relay = "" },
				"other origin":      func(p *Proof) { p.Origin = otherName },
				"origin moved": func(p *Proof) {
					if p.Origin == "" {
						p.Origin = testName
					} else {
						p.Origin = ""
					}
				},
				"upper case":     func(p *Proof) { p.Origin = spec.ServerName(strings.ToUpper(string(testName))) },
				"other kind":     func(p *Proof) { p.Key = "rsa:1" },
				"no key":         func(p *Proof) { p.Key = "" },
				"odd key":        func(p *Proof) { p.Key = `ed25519:1":"x","ed25519:2` },
				"talking key":    func(p *Proof) { p.Key = "ed25519: could not download key" },
				"old proof":      func(p *Proof) { *p = prove(t, other) },
				"no signature":   func(p *Proof) { p.Signature = "" },
				"odd signature":  func(p *Proof) { p.Signature = "?" },
				"long signature": func(p *Proof) { p.Signature += "AAAA" },
				"signature":      func(p *Proof) { p.Signature = strings.ToLower(p.Signature) },
			} {
				forged := p
				damage(&forged)
				got, err := forged.Check(t.Context(), keys, r.Content, proofTo)
				require.Error(t, err, "%s: %s", name, change)
				requireRefused(t, keys, err)
				require.Equal(t, Proven{}, got)
			}
		}
	}
}

// In P2P networks the name is the key, so its ID proves nothing. In
// others another key ID is a key that nobody has.
func TestOtherKeyID(t *testing.T) {
	p, r := signedProof(t, proofWithOrigin)
	p.Key = "ed25519:other"
	for name, keys := range verifiers() {
		if name == "key ring" {
			_, err := p.Check(t.Context(), keys, r.Content, proofTo)
			require.ErrorIs(t, err, ErrNoKey)
			continue
		}
		require.True(t, requireNotForged(t, keys, p, r.Content, r.Content))
	}
}

// Somebody else signs mail that pretends to be from the origin.
func TestForgedSignatures(t *testing.T) {
	for name, keys := range verifiers() {
		for _, content := range []string{proofWithOrigin, proofWithout} {
			p, r := signedProof(t, content)
			covered := signedMessage{r.Content, p.Relay, http.MethodPut, testName, p.URI}
			p.Signature = spec.Base64Bytes(ed25519.Sign(otherKey, covered.append(nil))).Encode()
			require.False(t, requireNotForged(t, keys, p, r.Content, r.Content), name)
			if name == "key ring" {
				continue // it doesn't know the other one
			}
			p.Origin = otherName // its own, for a transaction that says otherwise
			covered = signedMessage{r.Content, p.Relay, http.MethodPut, otherName, p.URI}
			p.Signature = spec.Base64Bytes(ed25519.Sign(otherKey, covered.append(nil))).Encode()
			got, err := p.Check(t.Context(), keys, r.Content, proofTo)
			if content == proofWithOrigin {
				require.ErrorIs(t, err, ErrProof)
				continue
			}
			require.NoError(t, err)
			require.Equal(t, otherName, got.Origin, "it has sent that, whoever had before")
		}
	}
}

// Other JSON with the canonical form of the signed JSON: it can be put in the
// place of that, and gives the signed JSON.
func TestSameCanonicalForm(t *testing.T) {
	const signed = `{"origin_server_ts":1,"pdus":[{"a":0.5,"b":"","c":"/é","x":1,"y":2}]}`
	p, r := signedProof(t, signed)
	require.Equal(t, signed, string(r.Content))
	for _, other := range []string{
		`{"origin_server_ts":1,"pdus":[{"a":-0.5,"b":"","c":"/é","x":1,"y":2}]}`,
		`{"origin_server_ts":1,"pdus":[{"a":0.5,"b":"","c":"/é","x\":1,\"y":2}]}`,
		`{"origin_server_ts":1,"pdus":[{"a\":0.5,\"b":"","c":"/é","x":1,"y":2}]}`,
		`{"origin_server_ts":1,"pdus":[{"a":0.5,"b":"\ud800","c":"\/\u00e9","x":1,"y":2}]}`,
		" {\n\"pdus\" : [{\"\\u0061\":0.5,\"y\":2,\"x\":1,\"b\":\"\",\"c\":\"/é\"}] , \"origin_server_ts\":1}\t",
		`{"origin_server_ts\":1,\"pdus":[{"a":0.5,"b":"","c":"/é","x":1,"y":2}]}`,
	} {
		for name, keys := range verifiers() {
			same := !signsEscapedKeys(t) || !strings.Contains(other, `\"`)
			require.Equal(t, same, requireNotForged(t, keys, p, []byte(other), r.Content), "%s: %s", name, other)
		}
	}
	for _, other := range []string{
		`{"origin_server_ts":1,"pdus":[{"a":0.5,"b":"","c":"/é","x":1,"x":1,"y":2}]}`,
		`{"origin_server_ts":1,"origin_server_ts":1,"pdus":[{"a":0.5,"b":"","c":"/é","x":1,"y":2}]}`,
		`{"origin_server_ts":1,"pdus":[],"pdus":[{"a":0.5,"b":"","c":"/é","x":1,"y":2}]}`,
		`{"Origin":"x","origin_server_ts":1,"pdus":[{"a":0.5,"b":"","c":"/é","x":1,"y":2}]}`,
		`{"origin_server_ts":1,"pdus":[{"a":5e-1,"b":"","c":"/é","x":1,"y":2}]}`,
		`{"origin_server_ts":1,"pdus":[{"a":0.50,"b":"","c":"/é","x":1,"y":2}]}`,
	} {
		require.False(t, requireNotForged(t, HexKeys{}, p, []byte(other), r.Content), other)
	}
}

// Keys that no two JSON libraries sign alike are in no proof, even if the
// signature over one reading is right.
func TestEscapedKeysProveNothing(t *testing.T) {
	for _, content := range []string{`{"a\"b":1,"pdus":[]}`, `{"a\\":1,"pdus":[]}`, `{"pdus":[{"\u0001":1}]}`, `{"a":1,"a":1,"pdus":[]}`} {
		p := Proof{Relay: testRelay, URI: proofURI(proofID, proofTo), Key: "ed25519:1", Origin: testName}
		covered := signedMessage{[]byte(content), p.Relay, http.MethodPut, testName, p.URI}
		p.Signature = spec.Base64Bytes(ed25519.Sign(testKey, covered.append(nil))).Encode()
		require.False(t, requireNotForged(t, HexKeys{}, p, []byte(content), nil), content)
	}
}

func TestControlCharacters(t *testing.T) {
	var text strings.Builder
	for c := range 0x20 {
		fmt.Fprintf(&text, `\u%04x\u%04X`, c, c)
	}
	p, r := signedProof(t, `{"pdus":[{"a":"`+text.String()+`"}]}`)
	require.True(t, NewBody(r.Content).IsCanonical(), "%s", r.Content)
	for _, keys := range verifiers() {
		require.True(t, requireNotForged(t, keys, p, r.Content, r.Content))
		require.True(t, requireNotForged(t, keys, p, []byte(`{"pdus":[{"a":"`+text.String()+`"}]}`), r.Content))
		require.False(t, requireNotForged(t, keys, p, bytes.Replace(r.Content, []byte(`\u0001`), []byte(`\u0002`), 1), r.Content))
	}
}
