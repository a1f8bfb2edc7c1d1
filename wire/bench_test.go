package wire_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// signedPut is a PUT of 5 PDUs of 1.5 KB, as deployed nodes send it.
func signedPut(b *testing.B, relay, to spec.ServerName) wire.SignedRequest {
	from := relaytest.NewNode("a")
	body, err := json.Marshal(from.Transaction(to, "1795563523199-12", 5, 1500))
	require.NoError(b, err)
	signed := fclient.NewFederationRequest(http.MethodPut, from.ServerName, relay, wire.SendRelayURI("1795563523199-12", relaytest.User(to)))
	require.NoError(b, signed.SetContent(json.RawMessage(body)))
	require.NoError(b, signed.Sign(from.ServerName, from.KeyID, from.PrivateKey))
	r, err := signed.HTTPRequest()
	require.NoError(b, err)
	uri, _ := wire.SignedURI(r)
	return wire.SignedRequest{Method: r.Method, URI: uri, Authorization: r.Header.Values("Authorization"), Content: signed.Content()}
}

// BenchmarkRead is all that a relay reads of a PUT, and the check of its
// signature; "unsigned" is that without ed25519.
func BenchmarkRead(b *testing.B) {
	relay, to := relaytest.NewNode("relay").ServerName, relaytest.NewNode("b").ServerName
	put := signedPut(b, relay, to)
	verifier := wire.Verifier{ServerName: relay, Keys: wire.HexKeys{}}
	read := func(b *testing.B, check func(*wire.SignedRequest)) {
		b.ReportAllocs()
		for b.Loop() {
			r := put
			_, err := wire.ParseURI(r.URI)
			require.NoError(b, err)
			_, err = r.Claimed()
			require.NoError(b, err)
			check(&r)
			transaction, _, _, err := r.Body().CutProof()
			require.NoError(b, err)
			_, err = transaction.Content()
			require.NoError(b, err)
			_, ok := wire.ProofOf(&r, relay)
			require.True(b, ok)
		}
	}
	b.Run("signed", func(b *testing.B) {
		read(b, func(r *wire.SignedRequest) {
			_, err := verifier.Verify(b.Context(), r, time.Now())
			require.NoError(b, err)
		})
	})
	b.Run("unsigned", func(b *testing.B) {
		read(b, func(r *wire.SignedRequest) { require.True(b, verifier.IsKeyKnown(r) && r.Body().IsCanonical()) })
	})
}

// BenchmarkProofOf measures the cost of a proof for a PUT besides storing it.
func BenchmarkProofOf(b *testing.B) {
	relay, to := relaytest.NewNode("relay").ServerName, relaytest.NewNode("b").ServerName
	request := signedPut(b, relay, to)
	_, err := request.Claimed()
	require.NoError(b, err)
	_, err = request.Body().Content()
	require.NoError(b, err)
	var size int
	for b.Loop() {
		proof, ok := wire.ProofOf(&request, relay)
		require.True(b, ok)
		size = len(proof.JSON())
	}
	b.ReportMetric(float64(size), "bytes")
}
