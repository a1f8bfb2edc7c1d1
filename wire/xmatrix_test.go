package wire

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
)

func init() { logrus.SetOutput(io.Discard) } // fclient logs every refusal

var (
	testKey  = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	testName = spec.ServerName(hex.EncodeToString(testKey.Public().(ed25519.PublicKey)))
)

const testRelay = "relay.example"

// sign makes the header that fclient would send for the content, in any form of
// the content.
func sign(t testing.TB, method, uri, destination string, content []byte) (header string, ok bool) {
	t.Helper()
	fields, err := json.Marshal(map[string]any{
		"content": json.RawMessage(content), "destination": destination,
		"method": method, "origin": testName, "uri": uri,
	})
	if err != nil {
		return "", false
	}
	signed, err := gomatrixserverlib.SignJSON(string(testName), "ed25519:1", testKey, fields)
	if err != nil {
		return "", false
	}
	var out struct {
		Signatures map[string]map[string]string `json:"signatures"`
	}
	require.NoError(t, json.Unmarshal(signed, &out))
	return fmt.Sprintf(`X-Matrix origin="%s",key="ed25519:1",sig="%s",destination="%s"`,
		testName, out.Signatures[string(testName)]["ed25519:1"], destination), true
}

// byFclient is the check that ours must be equal to.
func byFclient(r SignedRequest, keys gomatrixserverlib.JSONVerifier, local func(spec.ServerName) bool) (spec.ServerName, bool) {
	u, err := url.ParseRequestURI(r.URI)
	if err != nil {
		return "", false
	}
	request := &http.Request{
		Method: r.Method, URL: u, Body: io.NopCloser(bytes.NewReader(r.Content)),
		Header: http.Header{"Authorization": r.Authorization, "Content-Type": {"application/json"}},
	}
	signed, _ := fclient.VerifyHTTPRequest(request, time.Now(), testRelay, local, keys)
	if signed == nil {
		return "", false
	}
	return signed.Origin(), true
}

// noShortcut hides KnownKey, so that everything goes through fclient.
type noShortcut struct{ gomatrixserverlib.JSONVerifier }

func requireSameAsFclient(t *testing.T, r SignedRequest, local func(spec.ServerName) bool) (accepted bool) {
	t.Helper()
	v := Verifier{ServerName: testRelay, IsLocal: local, Keys: HexKeys{}}
	got, err := v.Verify(context.Background(), &r, time.Now())
	want, ok := byFclient(r, HexKeys{}, local)
	require.Equal(t, ok, err == nil, "fclient accepts: %v, we say: %v\n%+v", ok, err, r)
	require.Equal(t, want, got)
	v.Keys = noShortcut{HexKeys{}}
	_, slowErr := v.Verify(context.Background(), &r, time.Now())
	require.Equal(t, ok, slowErr == nil)
	if err != nil {
		var e *Error
		require.ErrorAs(t, err, &e)
		require.Contains(t, []int{400, 401}, e.Status)
	}
	return ok
}

var signedContents = map[string]string{
	"canonical":        `{"edus":[],"origin":"a","pdus":[{"content":{"body":"<&> \" \\ \n é \u2028"},"n":[1,-2,3.5,1e9]}]}`,
	"spaces":           "{ \"pdus\" : [ ] }\n",
	"unsorted":         `{"pdus":[],"edus":[]}`,
	"twice":            `{"a":1,"a":2,"pdus":[]}`,
	"minus zero":       `{"a":-0,"b":-0.5,"pdus":[]}`,
	"slash":            `{"a":"\/","pdus":[]}`,
	"unicode escape":   `{"a":"\u00e9\u0001\u001f","pdus":[]}`,
	"surrogates":       `{"a":"\ud83d\ude00","b":"\ud800<","c":"\ud800","pdus":[]}`,
	"escape in a key":  `{"\n":1,"a\"":2,"pdus":[]}`,
	"empty object":     `{}`,
	"empty key":        `{"":1}`,
	"array":            `[1,2]`,
	"text":             `"x"`,
	"null":             `null`,
	"html":             `{"a<b>&":"</script>"}`,
	"separators":       "{\"a\":\"\u2028\u2029\"}",
	"delete character": "{\"a\":\"\x7f\"}",
	"big number":       `{"a":123456789012345678901234567890,"b":1E+2}`,
	"signatures":       `{"signatures":{"x":1},"unsigned":{}}`,
}

// signsEscapedKeys says whether this version of gomatrixserverlib leaves keys in
// canonical JSON as they were. Newer ones put them out without their escapes.
func signsEscapedKeys(t testing.TB) bool {
	key := `{"a\"b":1}`
	canonical, err := gomatrixserverlib.CanonicalJSON([]byte(key))
	require.NoError(t, err)
	return string(canonical) == key
}

func TestVerifySameAsFclient(t *testing.T) {
	const uri = "/_matrix/federation/v1/send_relay/1/@user:b"
	for name, content := range signedContents {
		t.Run(name, func(t *testing.T) {
			header, ok := sign(t, "PUT", uri, testRelay, []byte(content))
			if name == "escape in a key" && !signsEscapedKeys(t) {
				require.False(t, ok)
				return
			}
			require.True(t, ok)
			r := SignedRequest{Method: "PUT", URI: uri, Authorization: []string{header}, Content: []byte(content)}
			require.True(t, requireSameAsFclient(t, r, nil))

			for change, damaged := range map[string]SignedRequest{
				"method":       {"GET", uri, r.Authorization, r.Content, nil, nil},
				"uri":          {"PUT", uri + "x", r.Authorization, r.Content, nil, nil},
				"query":        {"PUT", uri + "?x", r.Authorization, r.Content, nil, nil},
				"content":      {"PUT", uri, r.Authorization, append([]byte(`{"z":1}`), r.Content...), nil, nil},
				"destination":  {"PUT", uri, []string{strings.Replace(header, testRelay, "relay.other", 1)}, r.Content, nil, nil},
				"signature":    {"PUT", uri, []string{strings.Replace(header, `sig="`, `sig="A`, 1)}, r.Content, nil, nil},
				"no signature": {"PUT", uri, []string{strings.Replace(header, "sig=", "gis=", 1)}, r.Content, nil, nil},
				"no header":    {"PUT", uri, nil, r.Content, nil, nil},
				"other scheme": {"PUT", uri, []string{"Bearer x"}, r.Content, nil, nil},
				"key ID":       {"PUT", uri, []string{strings.Replace(header, "ed25519:1", "rsa:1", 1)}, r.Content, nil, nil},
				"not UTF-8":    {"PUT", uri, r.Authorization, append([]byte("\xff"), r.Content...), nil, nil},
				"origin":       {"PUT", uri, []string{strings.Replace(header, string(testName), strings.ToUpper(string(testName)), 1)}, r.Content, nil, nil},
			} {
				require.False(t, requireSameAsFclient(t, damaged, nil), change)
			}
		})
	}
}

func TestVerifyAcceptsAsFclient(t *testing.T) {
	const uri = "/_matrix/federation/v1/send_relay/1/@user:b"
	content := []byte(`{"pdus":[]}`)
	header, _ := sign(t, "PUT", uri, testRelay, content)
	toOther, _ := sign(t, "PUT", uri, "other.example", content)
	ofOtherContent, _ := sign(t, "PUT", uri, testRelay, []byte(`{"pdus":[{}]}`))
	wrong := strings.Replace(header, `sig="`, `sig="AAAA`, 1)
	other := func(name spec.ServerName) bool { return name == "other.example" }

	for name, c := range map[string]struct {
		headers []string
		local   func(spec.ServerName) bool
		want    bool
	}{
		"any key ID":                   {[]string{strings.Replace(header, "ed25519:1", "ed25519:dendrite-demo-yggdrasil", 1)}, nil, true},
		"without destination":          {[]string{strings.Replace(header, `,destination="`+testRelay+`"`, "", 1)}, nil, true},
		"without quotes":               {[]string{strings.ReplaceAll(header, `"`, "")}, nil, true},
		"spaces":                       {[]string{strings.ReplaceAll(header, ",", " , ")}, nil, true},
		"beside another scheme":        {[]string{"Bearer x", header}, nil, true},
		"second key right":             {[]string{strings.Replace(wrong, "ed25519:1", "ed25519:2", 1), header}, nil, true},
		"first key right":              {[]string{header, strings.Replace(ofOtherContent, "ed25519:1", "ed25519:2", 1)}, nil, true},
		"two wrong":                    {[]string{strings.Replace(wrong, "ed25519:1", "ed25519:2", 1), wrong}, nil, false},
		"two origins":                  {[]string{strings.Replace(header, string(testName), "aa", 1), header}, nil, false},
		"other local name":             {[]string{toOther}, other, true},
		"name is not local":            {[]string{header}, other, false},
		"last destination counts":      {[]string{header, toOther}, nil, false},
		"lower-case scheme isn't ours": {[]string{strings.Replace(header, "X-Matrix", "x-matrix", 1)}, nil, false},
		"padded signature":             {[]string{strings.Replace(header, `",destination`, `==",destination`, 1)}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := SignedRequest{Method: "PUT", URI: uri, Authorization: c.headers, Content: content}
			require.Equal(t, c.want, requireSameAsFclient(t, r, c.local))
		})
	}
}

// The bounds that we have and fclient doesn't.
func TestVerifyBounds(t *testing.T) {
	const uri = "/_matrix/federation/v1/send_relay/1/@user:b"
	v := Verifier{ServerName: testRelay, Keys: HexKeys{}}
	deep := []byte(`{"a":` + strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth) + `}`)
	header, _ := sign(t, "PUT", uri, testRelay, deep)
	_, err := v.Verify(t.Context(), &SignedRequest{"PUT", uri, []string{header}, deep, nil, nil}, time.Now())
	require.ErrorContains(t, err, "nests deeper")

	shallow := []byte(`{"a":` + strings.Repeat("[", MaxDepth-1) + strings.Repeat("]", MaxDepth-1) + `}`)
	header, _ = sign(t, "PUT", uri, testRelay, shallow)
	_, err = v.Verify(t.Context(), &SignedRequest{"PUT", uri, []string{header}, shallow, nil, nil}, time.Now())
	require.NoError(t, err)

	many := make([]string, maxSignatures+1)
	for i := range many {
		many[i] = header
	}
	_, err = v.Verify(t.Context(), &SignedRequest{"PUT", uri, many, shallow, nil, nil}, time.Now())
	require.ErrorContains(t, err, "too many")
}

type brokenKeys struct{}

func (brokenKeys) VerifyJSONs(context.Context, []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	return nil, errors.New("the key database is away")
}

func TestVerifyKeysUnavailable(t *testing.T) {
	const uri = "/_matrix/federation/v1/send_relay/1/@user:b"
	header, _ := sign(t, "PUT", uri, testRelay, []byte(`{}`))
	v := Verifier{ServerName: testRelay, Keys: brokenKeys{}}
	_, err := v.Verify(t.Context(), &SignedRequest{"PUT", uri, []string{header}, []byte(`{}`), nil, nil}, time.Now())
	require.Error(t, err)
	isWire := errors.As(err, new(*Error))
	require.False(t, isWire, "it's our fault, not the caller's")
}

// FuzzVerify signs its input and changes the request afterwards: we
// must give the same answer as fclient.
func FuzzVerify(f *testing.F) {
	const uri = "/_matrix/federation/v1/send_relay/1/%40user:b"
	for _, content := range signedContents {
		f.Add("PUT", uri, testRelay, []byte(content), "", "", -1, byte(0))
	}
	f.Add("PUT", uri, testRelay, []byte(`{"pdus":[]}`), "", "", 3, byte('x'))
	f.Add("PUT", uri+"?a=<b>", testRelay, []byte(`{"pdus":[]}`), "sig=", "sig=A", -1, byte(0))
	f.Add("GET", uri, "", []byte(`{"entry_id":0}`), `origin="`, `origin=" `, -1, byte(0))
	f.Fuzz(func(t *testing.T, method, uri, destination string, content []byte, from, to string, at int, with byte) {
		u, err := url.ParseRequestURI(uri)
		if err != nil || !hasGoodShape(content) {
			t.Skip()
		}
		uri = u.RequestURI() // as SignedURI does
		header, ok := sign(t, method, uri, destination, content)
		if !ok {
			header = fmt.Sprintf(`X-Matrix origin="%s",key="ed25519:1",sig="AAAA"`, testName)
		}
		if from != "" {
			header = strings.ReplaceAll(header, from, to)
		}
		if at >= 0 && at < len(content) {
			content = bytes.Clone(content)
			content[at] = with
		}
		if !hasGoodShape(content) {
			t.Skip()
		}
		requireSameAsFclient(t, SignedRequest{method, uri, []string{header}, content, nil, nil}, nil)
	})
}

// FuzzCanonical: content that IsCanonical says yes to, gomatrixserverlib leaves as it
// is, on the way that fclient's check takes too.
func FuzzCanonical(f *testing.F) {
	for _, content := range signedContents {
		f.Add([]byte(content))
	}
	for c := range 0x30 { // as it must be, or nearly
		f.Add(fmt.Appendf(nil, `{"a":"\u%04x"}`, c))
		f.Add(fmt.Appendf(nil, `{"a":"\u%04X\\u%04x\"\n"}`, c, c))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		if !NewBody(content).IsCanonical() {
			return
		}
		require.True(t, json.Valid(content))
		require.True(t, hasGoodShape(content))
		canonical, err := gomatrixserverlib.CanonicalJSON(content)
		require.NoError(t, err)
		require.Equal(t, string(content), string(canonical))
		requireSameFields(t, content)
		again, err := json.Marshal(spec.RawJSON(content))
		require.NoError(t, err)
		canonical, err = gomatrixserverlib.CanonicalJSON(again)
		require.NoError(t, err)
		require.Equal(t, string(content), string(canonical))
	})
}

// requireSameFields: the scan finds the same in canonical JSON as another parser.
func requireSameFields(t *testing.T, content []byte) {
	var scanned, read fields
	require.True(t, scanned.scan(content))
	read.read(content)
	if scanned.err != nil { // the first reason; the other parser stops at it
		require.Equal(t, read.err, scanned.err)
		return
	}
	require.Equal(t, read, scanned)
}

// The shortcut must be taken for the requests of deployed nodes, else it is no use.
func TestCanonicalIsTaken(t *testing.T) {
	transaction := gomatrixserverlib.Transaction{
		Origin: testName, OriginServerTS: 1, PDUs: []json.RawMessage{json.RawMessage(`{"b":"<é&\n>","a":[1.5,null,true,{}]}`)},
		EDUs: []gomatrixserverlib.EDU{{Type: "m.typing", Content: spec.RawJSON(`{"z":1,"a":2}`)}},
	}
	r := fclient.NewFederationRequest("PUT", testName, testRelay, "/x")
	require.NoError(t, r.SetContent(transaction))
	require.NoError(t, r.Sign(testName, "ed25519:1", testKey))
	require.True(t, NewBody(r.Content()).IsCanonical(), "%s", r.Content())
	for content, want := range map[string]bool{
		`{}`: true, `{"a":{}}`: true, `{"a":"\"\\\b\f\n\r\t"}`: true, `{"a":1,"b":2}`: true, `{"a":-1.5e-3}`: true,
		``: false, `[]`: false, `{`: false, `{}}`: false, `{"a":1,}`: false, `{"b":1,"a":2}`: false, `{"a":1,"a":1}`: false,
		`{"a":01}`: false, `{"a":1.}`: false, `{"a":.5}`: false, `{"a":-}`: false, `{"a":1e}`: false, `{"a":+1}`: false,
		`{"a":"\u0001\u0007\u000b\u000e\u001f"}`: true, `{"a":"\\u0020"}`: true, `{"a":"\u0008"}`: false, `{"a":"\u000a"}`: false,
		`{"a":"\u000B"}`: false, `{"a":"\u0020"}`: false, `{"a":"\u002f"}`: false, `{"a":"\u00e9"}`: false, `{"a":"\u1001"}`: false,
		`{"a":"\u001"}`: false, `{"a":"\U0001"}`: false, `{"a":"\u001g"}`: false, `{"\u0001":1}`: false,
		`{"a":tru}`: false, `{"a":"`: false, `{"a":"\`: false, `{"a":"\q"}`: false, `{"a" :1}`: false, "{\"a\":\"\x01\"}": false,
	} {
		require.Equal(t, want, NewBody([]byte(content)).IsCanonical(), content)
	}
}

func TestHexKeysOthers(t *testing.T) {
	const uri = "/_matrix/federation/v1/send_relay/1/@user:b"
	r := fclient.NewFederationRequest("PUT", "named.example", testRelay, uri)
	require.NoError(t, r.SetContent(map[string]any{}))
	require.NoError(t, r.Sign("named.example", "ed25519:1", testKey))
	request, err := r.HTTPRequest()
	require.NoError(t, err)
	signed := SignedRequest{"PUT", uri, request.Header.Values("Authorization"), r.Content(), nil, nil}

	v := Verifier{ServerName: testRelay, Keys: HexKeys{}}
	_, err = v.Verify(t.Context(), &signed, time.Now())
	require.Error(t, err)

	v.Keys = HexKeys{Others: gomatrixserverlib.KeyRing{KeyDatabase: fixedKey{}}}
	name, err := v.Verify(t.Context(), &signed, time.Now())
	require.NoError(t, err)
	require.Equal(t, spec.ServerName("named.example"), name)

	// A key that was valid until yesterday isn't now.
	v.Keys = HexKeys{Others: gomatrixserverlib.KeyRing{KeyDatabase: fixedKey{until: time.Now().Add(-24 * time.Hour)}}}
	_, err = v.Verify(t.Context(), &signed, time.Now())
	require.Error(t, err)
}

// fixedKey is a key database with one key for every server.
type fixedKey struct{ until time.Time }

func (k fixedKey) FetcherName() string { return "fixed" }

func (k fixedKey) FetchKeys(_ context.Context, requests map[gomatrixserverlib.PublicKeyLookupRequest]spec.Timestamp) (map[gomatrixserverlib.PublicKeyLookupRequest]gomatrixserverlib.PublicKeyLookupResult, error) {
	results := map[gomatrixserverlib.PublicKeyLookupRequest]gomatrixserverlib.PublicKeyLookupResult{}
	if k.until.IsZero() {
		k.until = time.Now().Add(time.Hour)
	}
	for request := range requests {
		results[request] = gomatrixserverlib.PublicKeyLookupResult{
			VerifyKey:    gomatrixserverlib.VerifyKey{Key: spec.Base64Bytes(testKey.Public().(ed25519.PublicKey))},
			ValidUntilTS: spec.AsTimestamp(k.until),
		}
	}
	return results, nil
}

func (k fixedKey) StoreKeys(context.Context, map[gomatrixserverlib.PublicKeyLookupRequest]gomatrixserverlib.PublicKeyLookupResult) error {
	return nil
}
