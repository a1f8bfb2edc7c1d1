package wire

import (
	"bytes"
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
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
)

// requireFormOf: a form that is certain is that of gomatrixserverlib, also on the way
// that fclient's check takes, and a reading of it finds the same as one of the body.
func requireFormOf(t testing.TB, content []byte) (certain bool) {
	formed, ok := form(content)
	if !ok {
		return false
	}
	require.True(t, json.Valid(content), "%q", content)
	require.True(t, hasGoodShape(content), "%q", content)
	require.True(t, NewBody(formed).IsCanonical(), "%q of %q", formed, content)
	canonical, err := gomatrixserverlib.CanonicalJSON(content)
	require.NoError(t, err)
	require.Equal(t, string(canonical), string(formed), "of %q", content)
	again, err := json.Marshal(spec.RawJSON(content))
	require.NoError(t, err)
	canonical, err = gomatrixserverlib.CanonicalJSON(again)
	require.NoError(t, err)
	require.Equal(t, string(canonical), string(formed), "of %q", content)

	got, gotErr := NewBody(content).Content()
	want, wantErr := (&Body{json: content, isFormed: true}).Content()
	require.Equal(t, wantErr, gotErr, "%q", content)
	require.Equal(t, want, got, "%q", content)
	return true
}

func FuzzForm(f *testing.F) {
	for _, content := range signedContents {
		f.Add([]byte(content))
	}
	for c := range 0x30 {
		f.Add(fmt.Appendf(nil, `{ "a":"\u%04x" , "A":-0.%d}`, c, c))
		f.Add(fmt.Appendf(nil, `{"b":"\u%04X\\u%04x\/","a":1e-0%d}`, c, c, c))
	}
	f.Fuzz(func(t *testing.T, content []byte) { requireFormOf(t, content) })
}

// TestFormOfRandom has JSON of every kind, written in many ways.
func TestFormOfRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(seeds.Of(t, "RELAY_FORM_SEED"), 0))
	certain := 0
	for range 3000 {
		if requireFormOf(t, append(spaces(random), randomObject(random, 0)...)) {
			certain++
		}
	}
	require.Greater(t, certain, 1000)
}

func spaces(r *rand.Rand) []byte { return []byte(strings.Repeat(" \n\t\r", r.IntN(2))) }

func randomObject(r *rand.Rand, depth int) []byte {
	var out []byte
	for i := range r.IntN(5) {
		if i > 0 {
			out = append(append(out, ','), spaces(r)...)
		}
		key, _ := json.Marshal(string(rune('a'+r.IntN(20))) + []string{"", " ", "!", "é", "z"}[r.IntN(5)]) // strings
		out = append(append(append(out, key...), spaces(r)...), ':')
		out = append(append(append(out, spaces(r)...), randomValue(r, depth+1)...), spaces(r)...)
	}
	return fmt.Appendf(nil, "{%s%s}%s", spaces(r), out, spaces(r))
}

func randomValue(r *rand.Rand, depth int) []byte {
	switch n := r.IntN(10); {
	case n < 3 && depth < 6:
		return randomObject(r, depth)
	case n < 5 && depth < 6:
		return fmt.Appendf(nil, "[%s%s,%s]", spaces(r), randomValue(r, depth+1), randomValue(r, depth+1))
	case n < 8:
		texts := []string{``, `\u00e9`, `\ud83d\ude00`, `\/`, `\u0022\u005c`, `\u0007\u0008\u000A\u000b`, `<&>\u2028`, "\u2028", `12345678\"`}
		return fmt.Appendf(nil, `"%s%s"`, texts[r.IntN(len(texts))], texts[r.IntN(len(texts))])
	}
	numbers := []string{"0", "-0", "-0.5", "1e-05", "1E+2", "-12.50", "true", "false", "null", "9007199254740993", "[]", "{}", "[ ]"}
	return []byte(numbers[r.IntN(len(numbers))])
}

// TestFormIsUnsure: bytes that aren't JSON, and JSON that decoders read differently, are
// left to them.
func TestFormIsUnsure(t *testing.T) {
	for _, body := range []string{
		``, `[]`, `"x"`, `{`, `{}x`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{"a":01}`, `{"a":-}`, `{"a":1.}`, `{"a":.1}`, `{"a":1e}`, `{"a":+1}`,
		`{"a":1,"a":2}`, `{"b":1,"a":{"c":1,"d":2,"c":3}}`, `{"\u0061":1}`, `{"a\"":1}`, `{"a":"\ud800"}`, `{"a":"\ud800<"}`,
		`{"a":"\ud800\ud800"}`, `{"a":"\udc00\ud800"}`, `{"a":"\u12"}`, `{"a":"\u12g4"}`, `{"a":"\x"}`, "{\"a\":\"\n\"}", "{\"a\":\"\xff\"}",
		`{"a":tru}`, `{"a":"`, `{"a":"\`, `{"a":1 2}`, `{"a":[1}`, `{"a":[1,]}`, `{"a" "b"}`, "{\f}",
		`{"a":` + strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth) + `}`,
		`{"a":[` + strings.Repeat("1, ", MaxWidth) + `1]}`,
	} {
		require.False(t, NewBody([]byte(body)).HasForm(), "%.100q", body)
	}
}

// A body that isn't canonical is read once, as a canonical one is.
func TestFormIsReadOnce(t *testing.T) {
	r := signedByFclient(t, proofURI(proofID, proofTo), []byte(proofWithOrigin))
	r.Content = append([]byte(" "), r.Content...)
	v := Verifier{ServerName: testRelay, Keys: HexKeys{}}
	require.False(t, r.Body().IsCanonical())
	require.True(t, r.Body().HasForm())
	for i := range r.Content {
		r.Content[i] = '?' // it is formed
	}
	origin, err := v.Verify(t.Context(), &r, time.Now())
	require.NoError(t, err)
	require.Equal(t, testName, origin)
	content, err := r.Body().Content()
	require.NoError(t, err)
	require.Equal(t, testName, content.Origin)
	_, ok := ProofOf(&r, testRelay)
	require.True(t, ok)
}

// countedKeys counts how often it is asked for a key.
type countedKeys struct {
	HexKeys
	asked int
}

func (k *countedKeys) VerifyJSONs(ctx context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	k.asked++
	return k.HexKeys.VerifyJSONs(ctx, requests)
}

// Signatures that nobody can have made are refused by the header alone, and those of
// bodies that aren't canonical are left to no decoder.
func TestCheckHeader(t *testing.T) {
	const uri = "/_matrix/federation/v1/send_relay/1/@user:b"
	content := []byte(`{ "pdus": [], "edus": [] }`)
	header, ok := sign(t, "PUT", uri, testRelay, content)
	require.True(t, ok)
	_, rest, _ := strings.Cut(header, `sig="`)
	right, _, _ := strings.Cut(rest, `"`)
	signature, err := base64.RawStdEncoding.DecodeString(right)
	require.NoError(t, err)
	changed := func(change func([]byte)) string {
		other := bytes.Clone(signature)
		change(other)
		return strings.Replace(header, right, base64.RawStdEncoding.EncodeToString(other), 1)
	}
	keys := &countedKeys{}
	v := Verifier{ServerName: testRelay, Keys: keys}
	for name, c := range map[string]struct {
		header          string
		refused, passes bool
	}{
		"right":             {header, false, true},
		"another":           {changed(func(s []byte) { s[3]++ }), false, false},
		"zero":              {changed(func(s []byte) { clear(s) }), true, false},
		"second half zero":  {changed(func(s []byte) { clear(s[32:]) }), true, false},
		"number too large":  {changed(func(s []byte) { s[63] |= 0x20 }), true, false},
		"too short":         {strings.Replace(header, right, right[:80], 1), true, false},
		"not base64":        {strings.Replace(header, right, "%%", 1), true, false},
		"another relay's":   {strings.Replace(header, testRelay, "other.example", 1), true, false},
		"key isn't known":   {strings.Replace(changed(func(s []byte) { clear(s) }), string(testName), "a.example", 1), false, false},
		"without signature": {"X-Matrix origin=a,key=ed25519:1", true, false},
	} {
		keys.asked = 0
		r := SignedRequest{Method: "PUT", URI: uri, Authorization: []string{c.header}, Content: content}
		refusal := v.CheckHeader(&SignedRequest{Method: "PUT", URI: uri, Authorization: []string{c.header}})
		require.Equal(t, c.refused, refusal != nil, name)
		_, err := v.Verify(t.Context(), &r, time.Now())
		require.Equal(t, c.passes, err == nil, "%s: %v", name, err)
		if refusal != nil {
			require.Equal(t, refusal, err, name)
		}
		if r.parsed != nil && r.parsed.origin == testName {
			require.Zero(t, keys.asked, "%s: left to a decoder", name)
		}
		require.Equal(t, c.passes, func() bool { _, ok := byFclient(r, HexKeys{}, nil); return ok }(), "%s: fclient says the same", name)
	}
	require.Len(t, signature, ed25519.SignatureSize)
}

// oddBody is a body of that size whose canonical form takes long to make: each object
// of it must be sorted, each in the next, as deep as it may be.
func oddBody(size int) []byte {
	open := strings.Repeat(`{"b":`, MaxDepth-1)
	shut := strings.Repeat(`,"a":1}`, MaxDepth-1)
	head, tail := `{"pdus":[{"z":`+open[:5*(MaxDepth-4)], shut[:7*(MaxDepth-4)]+`,"a":1}]}`
	return []byte(head + `"` + strings.Repeat("x", size-len(head)-len(tail)-2) + `"` + tail)
}

// BenchmarkForm compares the check of a body of 250 KB that isn't canonical and nests as
// deep as it may with fclient's, for a wrong signature.
func BenchmarkForm(b *testing.B) {
	const uri = "/_matrix/federation/v1/send_relay/1/@user:b"
	header := fmt.Sprintf(`X-Matrix origin="%s",key="ed25519:1",sig="%sA",destination="%s"`, testName, strings.Repeat("B", 85), testRelay)
	for name, keys := range map[string]gomatrixserverlib.JSONVerifier{"known": HexKeys{}, "fclient": noShortcut{HexKeys{}}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			body := oddBody(250_000)
			v := Verifier{ServerName: testRelay, Keys: keys}
			for b.Loop() {
				_, err := v.Verify(b.Context(), &SignedRequest{Method: "PUT", URI: uri, Authorization: []string{header}, Content: body}, time.Now())
				require.Error(b, err)
			}
		})
	}
}
