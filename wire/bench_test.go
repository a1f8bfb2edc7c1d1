package wire_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// BenchmarkProofOf is what a proof costs a PUT besides being stored.
func BenchmarkProofOf(b *testing.B) {
	from, to := relaytest.NewNode("a"), relaytest.NewNode("b").ServerName
	body, err := json.Marshal(from.Transaction(to, "1795563523199-12", 5, 1500))
	require.NoError(b, err)
	relay := relaytest.NewNode("relay").ServerName
	signed := fclient.NewFederationRequest(http.MethodPut, from.ServerName, relay, wire.SendRelayURI("1795563523199-12", relaytest.User(to)))
	require.NoError(b, signed.SetContent(json.RawMessage(body)))
	require.NoError(b, signed.Sign(from.ServerName, from.KeyID, from.PrivateKey))
	r, err := signed.HTTPRequest()
	require.NoError(b, err)
	uri, _ := wire.SignedURI(r)
	request := wire.SignedRequest{Method: r.Method, URI: uri, Authorization: r.Header.Values("Authorization"), Content: body}
	content, err := wire.ReadContent(body)
	require.NoError(b, err)
	_, err = request.Claimed()
	require.NoError(b, err)
	var size int
	for b.Loop() {
		proof, ok := wire.ProofOf(request, relay, content)
		require.True(b, ok)
		size = len(proof.JSON())
	}
	b.ReportMetric(float64(size), "bytes")
}
