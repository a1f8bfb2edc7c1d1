package wire

import (
	"context"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"
)

// A ring is a database of keys in memory.
type ring map[gomatrixserverlib.PublicKeyLookupRequest]gomatrixserverlib.PublicKeyLookupResult

// ringOf has testName's key, with these changes.
func ringOf(changes ...func(*gomatrixserverlib.PublicKeyLookupResult)) ring {
	key := gomatrixserverlib.PublicKeyLookupResult{
		VerifyKey:    gomatrixserverlib.VerifyKey{Key: spec.Base64Bytes(testKey.Public().(ed25519.PublicKey))},
		ValidUntilTS: spec.AsTimestamp(time.Now().Add(time.Hour)),
	}
	for _, change := range changes {
		change(&key)
	}
	return ring{{ServerName: testName, KeyID: "ed25519:1"}: key}
}

func (ring) FetcherName() string { return "memory" }

func (r ring) FetchKeys(_ context.Context, requests map[gomatrixserverlib.PublicKeyLookupRequest]spec.Timestamp) (map[gomatrixserverlib.PublicKeyLookupRequest]gomatrixserverlib.PublicKeyLookupResult, error) {
	results := make(map[gomatrixserverlib.PublicKeyLookupRequest]gomatrixserverlib.PublicKeyLookupResult)
	for request := range requests {
		if key, ok := r[request]; ok {
			results[request] = key
		}
	}
	return results, nil
}

func (ring) StoreKeys(context.Context, map[gomatrixserverlib.PublicKeyLookupRequest]gomatrixserverlib.PublicKeyLookupResult) error {
	return nil
}

// The key must have been valid when the origin signed. That a key isn't there,
// or wasn't valid, is told from a signature that is wrong by the texts of
// gomatrixserverlib, which this test guards.
func TestProofKeys(t *testing.T) {
	const signed = 1766620800000
	type key = gomatrixserverlib.PublicKeyLookupResult
	wrong := func(k *key) { k.Key = spec.Base64Bytes(otherKey.Public().(ed25519.PublicKey)) }
	expired := func(at spec.Timestamp) func(*key) {
		return func(k *key) { k.ExpiredTS, k.ValidUntilTS = at, gomatrixserverlib.PublicKeyNotValid }
	}
	until := func(at spec.Timestamp) func(*key) { return func(k *key) { k.ValidUntilTS = at } }
	for name, c := range map[string]struct {
		keys ring
		want error
	}{
		"valid":                 {ringOf(), nil},
		"none":                  {ring{}, ErrNoKey},
		"wrong":                 {ringOf(wrong), ErrProof},
		"expired after":         {ringOf(expired(signed + 1)), nil},
		"expired after, wrong":  {ringOf(expired(signed+1), wrong), ErrProof},
		"expired at":            {ringOf(expired(signed)), ErrKeyNotValid},
		"expired long before":   {ringOf(expired(1)), ErrKeyNotValid},
		"valid until then":      {ringOf(until(signed)), nil},
		"valid until then, old": {ringOf(until(signed), wrong), ErrProof},
		"not fetched anew":      {ringOf(until(signed - 1)), ErrKeyNotValid},
	} {
		for _, content := range []string{proofWithOrigin, proofWithout} {
			p, r := signedProof(t, content)
			for _, keys := range []gomatrixserverlib.JSONVerifier{
				gomatrixserverlib.KeyRing{KeyDatabase: c.keys}, &gomatrixserverlib.KeyRing{KeyDatabase: c.keys},
			} {
				got, err := p.Check(t.Context(), keys, r.Content, proofTo)
				if c.want == nil {
					require.NoError(t, err, name)
					require.EqualValues(t, signed, got.Signed)
					continue
				}
				require.ErrorIs(t, err, c.want, name)
				require.Equal(t, errors.Is(c.want, ErrProof), errors.Is(err, ErrProof), name)
				require.Equal(t, !errors.Is(c.want, ErrProof), errors.Is(err, ErrNoKey), name)
				require.Equal(t, c.want == ErrKeyNotValid, errors.Is(err, ErrKeyNotValid), name) //nolint:errorlint // of the table
			}
		}
	}
}

// A name that isn't a key goes to the key ring, beside others that are.
func TestProofByOthersKeys(t *testing.T) {
	p, r := signedProof(t, proofWithOrigin)
	_, err := p.Check(t.Context(), HexKeys{Others: brokenKeys{}}, r.Content, proofTo)
	require.NoError(t, err, "the name is the key")
	_, err = p.Check(t.Context(), brokenKeys{}, r.Content, proofTo)
	require.ErrorContains(t, err, "the key database is away")
	require.NotErrorIs(t, err, ErrProof)
	require.NotErrorIs(t, err, ErrNoKey)
	_, err = p.Check(t.Context(), noAnswers{}, r.Content, proofTo)
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrProof)
}

// noAnswers breaks the contract.
type noAnswers struct{}

func (noAnswers) VerifyJSONs(context.Context, []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	return nil, nil
}
