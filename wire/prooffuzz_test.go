package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzCutProof: CutProof takes out again a proof that WithProof puts in, and leaves
// the rest as it was; and after anything that it takes out of strangers' bytes, JSON stays
// JSON.
func FuzzCutProof(f *testing.F) {
	p, r := signedProof(f, proofWithOrigin)
	f.Add(r.Content, p.URI)
	f.Add(WithProof(r.Content, p), `<>&"\`)
	f.Add([]byte("\t{ \"relay_proof\" :\n{\"uri\":\"\"} , \"pdus\":[]}"), "")
	f.Add([]byte(`{"pdus":[],"relay_proof": {} }`), "")
	f.Add([]byte(`{"pdus":[],"relay\u005fproof":{},"x":"relay_proof"}`), "")
	f.Add([]byte(`{"pdus":["relay_proof"],"relay_proof":{},"relay_proof":{}}`), "")
	f.Add([]byte(`{"relay_proof":{}}`), "")
	f.Add([]byte(`{"edus":[{}],"pdus":[{"a":1}],"relay_proof":{"uri":"x"},"z":1}`), "")
	f.Fuzz(func(t *testing.T, body []byte, uri string) {
		rest, _, has, err := NewBody(bytes.Clone(body)).CutProof()
		switch {
		case err != nil:
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, 400, e.Status)
		case !has:
			require.Equal(t, string(body), string(rest.JSON()))
		case json.Valid(body):
			require.True(t, json.Valid(rest.JSON()), "%s", rest.JSON())
			require.Less(t, len(rest.JSON()), len(body))
		}
		requireKnownAsRead(t, body)
		if _, err := ReadContent(body); err != nil {
			return // no transaction
		}
		proof := Proof{Relay: testRelay, URI: uri, Key: "ed25519:1", Signature: "AAAA"}
		encoded, err := ReadProof(proof.JSON())
		if err != nil {
			return // too long
		}
		with := WithProof(body, proof)
		require.True(t, json.Valid(with), "%s", with)
		rest, got, has, err := NewBody(with).CutProof()
		require.NoError(t, err)
		require.True(t, has)
		require.Equal(t, encoded, got)
		require.Equal(t, string(body), string(rest.JSON()))
	})
}

// requireKnownAsRead: the facts known of a transaction from the body that the proof
// was cut out of are those that a reading of its own would find.
func requireKnownAsRead(t *testing.T, body []byte) {
	whole := NewBody(bytes.Clone(body))
	if !whole.IsCanonical() {
		return
	}
	rest, _, _, err := whole.CutProof()
	if err != nil {
		return
	}
	require.True(t, rest.canonical)
	anew := NewBody(rest.JSON())
	require.True(t, anew.IsCanonical(), "%s", rest.JSON())
	known, knownErr := rest.Content()
	read, readErr := anew.Content()
	require.Equal(t, readErr, knownErr)
	require.Equal(t, read, known)
}

// FuzzCheckProof: with any change that a relay makes to a proof and its transaction, it
// proves nothing but the signed content.
func FuzzCheckProof(f *testing.F) {
	signed := make(map[string]bool)
	for _, content := range []string{proofWithOrigin, proofWithout} {
		p, r := signedProof(f, content)
		signed[string(r.Content)] = true
		f.Add(p.JSON(), r.Content)
		f.Add(p.JSON(), WithOrigin(r.Content, testName))
		f.Add(p.JSON(), bytes.ReplaceAll(r.Content, []byte("0.5"), []byte("-0.5")))
		f.Add(p.JSON(), []byte(`{"edus\":1,\"x":[],"pdus":[]}`))
	}
	f.Fuzz(func(t *testing.T, encoded, transaction []byte) {
		p, err := ReadProof(encoded)
		if err != nil {
			require.ErrorIs(t, err, ErrProof)
			return
		}
		got, err := p.Check(context.Background(), HexKeys{}, transaction, proofTo)
		asked, askedErr := p.Check(context.Background(), noShortcut{HexKeys{}}, transaction, proofTo)
		require.Equal(t, err == nil, askedErr == nil, "%v, %v", err, askedErr)
		require.Equal(t, got, asked)
		if err != nil {
			require.ErrorIs(t, err, ErrProof)
			require.ErrorIs(t, askedErr, ErrProof)
			return
		}
		require.Equal(t, testName, got.Origin)
		require.EqualValues(t, proofID, got.TransactionID)
		require.True(t, signed[string(got.Content)], "%s", got.Content)
	})
}
