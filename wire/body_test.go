package wire

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestNothingIsReadTwice spoils the parts that have been read already: nobody notices.
func TestNothingIsReadTwice(t *testing.T) {
	r := signedByFclient(t, proofURI(proofID, proofTo), []byte(proofWithOrigin))
	v := Verifier{ServerName: testRelay, Keys: HexKeys{}}
	origin, err := r.Claimed()
	require.NoError(t, err)
	require.Equal(t, testName, origin)
	r.Authorization = []string{"read before"}
	require.True(t, v.IsKeyKnown(&r))
	require.True(t, r.Body().IsCanonical())
	_, err = v.Verify(t.Context(), &r, time.Now())
	require.NoError(t, err)

	r.Content[0] = '?' // scanned before
	whole, _, has, err := r.Body().CutProof()
	require.NoError(t, err)
	require.False(t, has)
	content, err := whole.Content()
	require.NoError(t, err)
	require.True(t, whole.canonical)
	require.Equal(t, testName, content.Origin)
	require.EqualValues(t, 1766620800000, content.OriginServerTS)

	copy(r.Content, bytes.Repeat([]byte("?"), len(r.Content)))
	again, err := r.Body().Content()
	require.NoError(t, err)
	require.Equal(t, content, again)
	_, ok := ProofOf(&r, testRelay)
	require.True(t, ok)
}

// TestIsCanonicalCopiesNothing: it is asked about large bodies before there is memory
// for a second one.
func TestIsCanonicalCopiesNothing(t *testing.T) {
	v := Verifier{ServerName: testRelay, Keys: HexKeys{}}
	large := `{"pdus":[{"a":"` + strings.Repeat("x", 1<<20) + `"}]}`
	r := signedByFclient(t, proofURI(proofID, proofTo), []byte(large))
	result := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			anew := SignedRequest{r.Method, r.URI, r.Authorization, r.Content, nil, nil}
			require.True(b, v.IsKeyKnown(&anew) && anew.Body().IsCanonical())
		}
	})
	require.Less(t, result.AllocedBytesPerOp(), int64(16<<10))
}

// TestScanOfText has a byte that ends or breaks a string at each place of the eight bytes
// that are looked at together.
func TestScanOfText(t *testing.T) {
	for length := range 40 {
		for at := range length + 1 {
			before, behind := strings.Repeat("é", at/2)+strings.Repeat("x", at%2), strings.Repeat("\x7f", length-at)
			for middle, want := range map[string]bool{
				"": true, " ": true, "!": true, "\u0080": true, `\"`: true, `\u001f`: true, `#[]`: true,
				"\x00": false, "\x1f": false, "\n": false, `\`: false, `\x`: false, `"`: false, "\xff": false,
			} {
				body := `{"a":"` + before + middle + behind + `"}`
				require.Equal(t, want, NewBody([]byte(body)).IsCanonical(), "%q", body)
			}
		}
	}
}
