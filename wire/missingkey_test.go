package wire

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"
)

// saysNoKey is a JSONVerifier of an embedder.
type saysNoKey struct{}

func (saysNoKey) VerifyJSONs(_ context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	results := make([]gomatrixserverlib.VerifyJSONResult, len(requests))
	for i := range results {
		results[i].Error = fmt.Errorf("looked in vain: %w", ErrNoKey)
	}
	return results, nil
}

// failingFetcher fails for as long as it is true.
type failingFetcher struct {
	fails *bool
	ring  ring
}

func (failingFetcher) FetcherName() string { return "failing" }

func (f failingFetcher) FetchKeys(ctx context.Context, requests map[gomatrixserverlib.PublicKeyLookupRequest]spec.Timestamp) (map[gomatrixserverlib.PublicKeyLookupRequest]gomatrixserverlib.PublicKeyLookupResult, error) {
	if *f.fails {
		return nil, errors.New("no such host")
	}
	return f.ring.FetchKeys(ctx, requests)
}

// TestMissingKeys: nobody is refused for good because we can't get at a key, or
// because our clock says that it isn't valid.
func TestMissingKeys(t *testing.T) {
	const uri = "/_matrix/federation/v1/send_relay/1/@user:b"
	header, _ := sign(t, "PUT", uri, testRelay, []byte(`{}`))
	request := SignedRequest{"PUT", uri, []string{header}, []byte(`{}`), nil, nil}
	until := func(at time.Time) func(*gomatrixserverlib.PublicKeyLookupResult) {
		return func(k *gomatrixserverlib.PublicKeyLookupResult) { k.ValidUntilTS = spec.AsTimestamp(at) }
	}
	wrong := func(k *gomatrixserverlib.PublicKeyLookupResult) {
		k.Key = spec.Base64Bytes(make([]byte, 32))
	}
	fails, works := true, false
	keyRing := func(database ring, fetchers ...gomatrixserverlib.KeyFetcher) gomatrixserverlib.JSONVerifier {
		return &gomatrixserverlib.KeyRing{KeyDatabase: database, KeyFetchers: fetchers}
	}
	for name, c := range map[string]struct {
		keys gomatrixserverlib.JSONVerifier
		want int
	}{
		"known":                           {keyRing(ringOf()), 0},
		"fetched":                         {keyRing(ring{}, failingFetcher{&works, ringOf()}), 0},
		"not fetched":                     {keyRing(ring{}, failingFetcher{&fails, ringOf()}), 503},
		"no such key":                     {keyRing(ring{}), 503},
		"old, and not fetched":            {keyRing(ringOf(until(time.Now().Add(-time.Hour))), failingFetcher{&fails, ring{}}), 503},
		"old, by a clock 40 days ahead":   {keyRing(ring{}, failingFetcher{&works, ringOf(until(time.Now().Add(-40 * 24 * time.Hour)))}), 503},
		"wrong":                           {keyRing(ringOf(wrong)), 401},
		"an embedder's verifier has none": {saysNoKey{}, 503},
	} {
		v := Verifier{ServerName: testRelay, Keys: c.keys}
		_, err := v.Verify(t.Context(), &request, time.Now())
		if c.want == 0 {
			require.NoError(t, err, name)
			continue
		}
		var e *Error
		require.ErrorAs(t, err, &e, "%s: %v", name, err)
		require.Equal(t, c.want, e.Status, name)
		if e.Status == http.StatusServiceUnavailable {
			require.Equal(t, spec.ErrorUnknown, e.Code, name)
			require.Equal(t, 3*time.Second, e.RetryAfter, name)
		}
	}
}
