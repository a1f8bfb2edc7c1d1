package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// TestOrdinaryServer fetches the key of a server whose name isn't its key.
func TestOrdinaryServer(t *testing.T) {
	s := newKeyServer("example.org")
	v := s.verifier()
	request := s.signed(t, "example.org", ordinaryKeyID, "example.org")
	for range 5 {
		require.NoError(t, verify(t.Context(), v, request))
	}
	require.Equal(t, []string{"example.org"}, s.asked, "the key is kept")
	request.Content = []byte(`{"pdus":["forged"]}`)
	require.Error(t, verify(t.Context(), v, request))
	require.Equal(t, 1, s.times(), "a wrong signature is no reason to ask again")
}

func TestForgeriesAreRefused(t *testing.T) {
	s := newKeyServer("example.org", "evil.example")
	v := s.verifier()
	require.Error(t, verify(t.Context(), v, s.signed(t, "example.org", ordinaryKeyID, "evil.example")))
	require.Error(t, verify(t.Context(), v, s.signed(t, "example.org", "ed25519:other", "example.org")))
	require.Error(t, verify(t.Context(), v, s.signed(t, "unknown.example", ordinaryKeyID, "evil.example")))
	require.NoError(t, verify(t.Context(), v, s.signed(t, "example.org", ordinaryKeyID, "example.org")))
}

// TestHexNamesAreNeverLookedUp, for requests with any fault.
func TestHexNamesAreNeverLookedUp(t *testing.T) {
	s := newKeyServer("example.org")
	v := s.verifier()
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	s.keys["a"], s.keys["b"] = a.PrivateKey, b.PrivateKey
	require.NoError(t, verify(t.Context(), v, s.signed(t, string(a.ServerName), "ed25519:any", "a")))
	require.Error(t, verify(t.Context(), v, s.signed(t, string(a.ServerName), "ed25519:any", "b")))
	require.Error(t, verify(t.Context(), v, s.signed(t, string(a.ServerName), "curve:any", "a")))
	upper := strings.ToUpper(string(a.ServerName))
	require.Error(t, verify(t.Context(), v, s.signed(t, upper, "ed25519:any", "a")))
	require.Empty(t, s.asked)
}

func TestNoKeysFetched(t *testing.T) {
	s := newKeyServer("example.org")
	require.Nil(t, (&options{keys: keysNone}).network(newStrangers()))
	v := &wire.Verifier{ServerName: relayName, Keys: wire.HexKeys{}}
	assertRefused(t, http.StatusUnauthorized, verify(t.Context(), v, s.signed(t, "example.org", ordinaryKeyID, "example.org")))
}

// TestServersAreNotPestered: no stranger makes this relay ask a server again
// and again.
func TestServersAreNotPestered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newKeyServer("example.org")
		s.fail = errors.New("down")
		v := s.verifier()
		for i := range 100 {
			id := gomatrixserverlib.KeyID(fmt.Sprintf("ed25519:%d", i))
			assertUnavailable(t, verify(t.Context(), v, s.signed(t, "example.org", id, "example.org")))
		}
		require.Equal(t, 1, s.times())

		// A failure is over soon: a client that was told to come again finds it forgotten.
		s.fail = nil
		require.Less(t, failAgain, wire.KeyUnavailable().RetryAfter)
		time.Sleep(wire.KeyUnavailable().RetryAfter)
		require.NoError(t, verify(t.Context(), v, s.signed(t, "example.org", ordinaryKeyID, "example.org")))
		require.Equal(t, 2, s.times())
	})
}

// TestUnknownKeysAreNotPestered: one that a server doesn't have is no reason to
// ask it again and again either.
func TestUnknownKeysAreNotPestered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newKeyServer("example.org")
		v := s.verifier()
		for i := range 100 {
			id := gomatrixserverlib.KeyID(fmt.Sprintf("ed25519:%d", i))
			assertUnavailable(t, verify(t.Context(), v, s.signed(t, "example.org", id, "example.org")))
			time.Sleep(askAgain / 200)
		}
		require.Equal(t, 1, s.times())
	})
}

// TestServersThatHang hold up nobody but themselves: not those whose keys are
// known, and not those whose servers answer.
func TestServersThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newKeyServer("known.example", "other.example", "third.example")
		s.hang = ".hang.example"
		v := s.verifier()
		require.NoError(t, verify(t.Context(), v, s.signed(t, "known.example", ordinaryKeyID, "known.example")))
		begin := time.Now()
		var all sync.WaitGroup
		for i := range maxFetching {
			request := s.signed(t, fmt.Sprintf("s%d.hang.example", i), ordinaryKeyID, "other.example")
			all.Go(func() { assertUnavailable(t, verify(t.Context(), v, request)) })
		}
		synctest.Wait()
		require.Equal(t, 1+maxFetching, s.times())
		require.NoError(t, verify(t.Context(), v, s.signed(t, "known.example", ordinaryKeyID, "known.example")))
		assertUnavailable(t, verify(t.Context(), v, s.signed(t, "other.example", ordinaryKeyID, "other.example")))
		require.Equal(t, begin, time.Now(), "nobody has waited")

		time.Sleep(fetchGrace)
		for _, name := range []string{"other.example", "third.example"} {
			require.NoError(t, verify(t.Context(), v, s.signed(t, name, ordinaryKeyID, name)))
		}
		require.Equal(t, begin.Add(fetchGrace), time.Now())
		synctest.Wait()
		require.EqualValues(t, maxFetching-1, s.hanging.Load(), "the request that gave up its place has ended")
		all.Wait()
		require.LessOrEqual(t, time.Since(begin), fetchTimeout, "they don't hang for long")
	})
}

// TestManyServersThatFail push nobody else out.
func TestManyServersThatFail(t *testing.T) {
	s := newKeyServer("example.org")
	v := s.verifier()
	for i := range maxAnswers + 10 {
		_ = verify(t.Context(), v, s.signed(t, fmt.Sprintf("s%d.example", i), ordinaryKeyID, "example.org"))
	}
	require.NoError(t, verify(t.Context(), v, s.signed(t, "example.org", ordinaryKeyID, "example.org")))
}

// TestTooManyKeys: a server with thousands of keys doesn't push those of others
// out of the cache.
func TestTooManyKeys(t *testing.T) {
	s := newKeyServer("example.org")
	s.more = maxKeysEach
	assertUnavailable(t, verify(t.Context(), s.verifier(), s.signed(t, "example.org", ordinaryKeyID, "example.org")))
	s.more = maxKeysEach - 1
	require.NoError(t, verify(t.Context(), s.verifier(), s.signed(t, "example.org", ordinaryKeyID, "example.org")))
}

// TestWrongClock: a signature that is right isn't refused for good while our
// clock says that its key is too old.
func TestWrongClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newKeyServer("example.org")
		v := s.verifier()
		s.validFor = -40 * 24 * time.Hour
		request := s.signed(t, "example.org", ordinaryKeyID, "example.org")
		assertUnavailable(t, verify(t.Context(), v, request))
		s.validFor = time.Hour
		time.Sleep(askAgain)
		require.NoError(t, verify(t.Context(), v, request))
	})
}

// TestClosedKeys ends the look-ups under way, and begins none.
func TestClosedKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newKeyServer("example.org")
		s.hang = "example.org"
		keys := newKeys(s)
		v := &wire.Verifier{ServerName: relayName, Keys: keys}
		request := s.signed(t, "example.org", ordinaryKeyID, "example.org")
		var all sync.WaitGroup
		all.Go(func() { assertUnavailable(t, verify(t.Context(), v, request)) })
		synctest.Wait()
		begin := time.Now()
		keys.close()
		all.Wait()
		require.Equal(t, begin, time.Now())
		time.Sleep(failAgain)
		assertUnavailable(t, verify(t.Context(), v, request))
		keys.close()
		require.Equal(t, 1, s.times())
	})
}

// TestConcurrentRequestsShareAFetch, and one of them that goes away takes the
// answer from nobody.
func TestConcurrentRequestsShareAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newKeyServer("example.org")
		s.delay = time.Second
		v := s.verifier()
		request := s.signed(t, "example.org", ordinaryKeyID, "example.org")
		impatient, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { assert.Error(t, verify(impatient, v, request)) })
		synctest.Wait()
		cancel()
		for range 20 {
			all.Go(func() { assert.NoError(t, verify(t.Context(), v, request)) })
		}
		all.Wait()
		require.Equal(t, 1, s.times())
	})
}

func TestTooManyServersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newKeyServer("example.org")
		s.delay = time.Second
		v := s.verifier()
		var all sync.WaitGroup
		for i := range 4 * maxFetching {
			request := s.signed(t, fmt.Sprintf("s%d.example", i), ordinaryKeyID, "example.org")
			all.Go(func() { assert.Error(t, verify(t.Context(), v, request)) })
		}
		all.Wait()
		require.LessOrEqual(t, s.times(), maxFetching)
		require.NoError(t, verify(t.Context(), v, s.signed(t, "example.org", ordinaryKeyID, "example.org")))
	})
}

func TestAnswersAreBounded(t *testing.T) {
	s := newKeyServer("example.org")
	s.padding = maxKeysBody
	request := s.signed(t, "example.org", ordinaryKeyID, "example.org")
	_, err := newKeyClient(s).GetServerKeys(t.Context(), "example.org")
	require.NoError(t, err, "only space is cut off")
	require.NoError(t, verify(t.Context(), s.verifier(), request))

	f := newSparingFetcher(&gomatrixserverlib.DirectKeyFetcher{
		Client: newKeyClient(s), IsLocalServerName: func(spec.ServerName) bool { return false },
	})
	ask := func(server string) {
		id := keyID{ServerName: spec.ServerName(server), KeyID: ordinaryKeyID}
		_, err := f.FetchKeys(t.Context(), map[keyID]spec.Timestamp{id: 0})
		require.NoError(t, err)
	}
	ask("example.org")
	asked := s.times()
	for i := range 2 * maxAnswers {
		s.fail = errors.New("down")
		ask(fmt.Sprintf("s%d.example", i))
		s.fail = nil
		ask("example.org")
	}
	require.Equal(t, asked+2*maxAnswers, s.times(), "the answer that is used stays")
	require.True(t, f.answers.IsFull())
}

// TestKeysAreFetchedAgain once they are old, at any validity that their server
// gives.
func TestKeysAreFetchedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newKeyServer("example.org")
		s.validFor = 1000 * 24 * time.Hour
		v := s.verifier()
		for range 3 {
			require.NoError(t, verify(t.Context(), v, s.signed(t, "example.org", ordinaryKeyID, "example.org")))
			time.Sleep(maxKeyAge - time.Minute)
		}
		require.Equal(t, 2, s.times())
	})
}

// TestKeyCacheIsBounded: many keys have none forgotten that is in use.
func TestKeyCacheIsBounded(t *testing.T) {
	c := newKeyCache()
	used := keyID{ServerName: "used.example", KeyID: ordinaryKeyID}
	require.NoError(t, c.StoreKeys(t.Context(), map[keyID]foundAt{used: {}}))
	var workers sync.WaitGroup
	for w := range 4 {
		workers.Go(func() {
			for i := range maxCachedKeys {
				id := keyID{ServerName: spec.ServerName(fmt.Sprintf("s%d-%d.example", w, i)), KeyID: ordinaryKeyID}
				assert.NoError(t, c.StoreKeys(t.Context(), map[keyID]foundAt{id: {}}))
				found, err := c.FetchKeys(t.Context(), map[keyID]spec.Timestamp{id: 0, used: 0})
				assert.NoError(t, err)
				assert.Contains(t, found, used)
			}
		})
	}
	workers.Wait()
	require.True(t, c.keys.IsFull())
}
