package relaytest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
)

const place = "place.example"

// inNetwork runs a test with a network in simulated time, and closes it.
func inNetwork(t *testing.T, test func(t *testing.T, n *relaytest.Network)) {
	synctest.Test(t, func(t *testing.T) {
		n := relaytest.NewNetwork()
		test(t, n)
		require.NoError(t, n.Close())
		require.NoError(t, n.Close(), "again")
		_, err := ask(t.Context(), n, alice)
		require.ErrorIs(t, err, relaytest.ErrClosed)
	})
}

// ask asks the place for anything, with a signature.
func ask(ctx context.Context, transport http.RoundTripper, from *relaytest.Node) (string, error) {
	r, err := from.Request(http.MethodPost, place, "/some%2Fwhere?x=%20", map[string]int{"n": 1})
	if err != nil {
		return "", err
	}
	return read(ctx, transport, r)
}

// read makes a request and returns the answer, with any status.
func read(ctx context.Context, transport http.RoundTripper, r *http.Request) (string, error) {
	response, err := transport.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(response.Body)
	return string(body), errors.Join(err, response.Body.Close())
}

var alice, bob = relaytest.NewNamed("alice.example"), relaytest.NewNamed("bob.example")

// echo answers with the request as a web server shows it.
func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_, _ = io.WriteString(w, r.Method+" "+r.Host+" "+r.RequestURI+" "+r.URL.String()+" "+string(body))
}

const echoed = `POST place.example /some%2Fwhere?x=%20 /some%2Fwhere?x=%20 {"n":1}`

func TestHandler(t *testing.T) {
	inNetwork(t, func(t *testing.T, n *relaytest.Network) {
		_, err := ask(t.Context(), n, alice)
		require.ErrorIs(t, err, relaytest.ErrRefused)
		n.Set(place, relaytest.Host{Handler: http.HandlerFunc(echo), Latency: time.Minute})
		began := time.Now()
		got, err := ask(t.Context(), n, alice)
		require.NoError(t, err)
		require.Equal(t, echoed, got)
		require.Equal(t, 2*time.Minute, time.Since(began), "there and back")
		require.Equal(t, 2, n.Asked(place))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = ask(ctx, n, alice)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 2*time.Minute+time.Second, time.Since(began))
	})
}

func TestHangs(t *testing.T) {
	inNetwork(t, func(t *testing.T, n *relaytest.Network) {
		n.Set(place, relaytest.Host{Handler: http.HandlerFunc(echo), Hangs: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := ask(ctx, n, alice)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestLossy(t *testing.T) {
	inNetwork(t, func(t *testing.T, n *relaytest.Network) {
		lost := func(requests, answers float64) (served, answered int) {
			handler := func(http.ResponseWriter, *http.Request) { served++ }
			n.Set(place, relaytest.Host{Handler: http.HandlerFunc(handler), Lose: relaytest.Lossy(7, requests, answers)})
			for range 1000 {
				_, err := ask(t.Context(), n, alice)
				if err == nil {
					answered++
				} else {
					require.ErrorIs(t, err, relaytest.ErrLost)
				}
			}
			return served, answered
		}
		served, answered := lost(0, 0)
		require.Equal(t, []int{1000, 1000}, []int{served, answered})
		served, answered = lost(1, 0)
		require.Equal(t, []int{0, 0}, []int{served, answered})
		served, answered = lost(0, 1)
		require.Equal(t, []int{1000, 0}, []int{served, answered}, "handled, and nobody knows")
		served, answered = lost(0.5, 0.5)
		require.InDelta(t, 500, served, 100)
		require.InDelta(t, 250, answered, 100)
		served2, answered2 := lost(0.5, 0.5)
		require.Equal(t, []int{served, answered}, []int{served2, answered2}, "the same seed")
	})
}

func TestLate(t *testing.T) {
	inNetwork(t, func(t *testing.T, n *relaytest.Network) {
		var served atomic.Int64
		n.Set(place, relaytest.Host{
			Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }),
			Lose:    relaytest.Lossy(1, 1, 0),
			Late:    func() time.Duration { return time.Hour },
		})
		for range 2 {
			_, err := ask(t.Context(), n, alice)
			require.ErrorIs(t, err, relaytest.ErrLost)
			time.Sleep(time.Minute)
		}
		time.Sleep(time.Hour - 90*time.Second)
		require.EqualValues(t, 1, served.Load())
		n.SetOffline(place, true)
		time.Sleep(time.Hour)
		require.EqualValues(t, 1, served.Load(), "the second found it offline")
	})
}

// TestOffline takes one side or the link away, before a request is made and while
// it is under way, and brings it back.
func TestOffline(t *testing.T) {
	for name, set := range map[string]func(n *relaytest.Network, down bool){
		"origin":      func(n *relaytest.Network, down bool) { n.SetOffline(alice.ServerName, down) },
		"destination": func(n *relaytest.Network, down bool) { n.SetOffline(place, down) },
		"link":        func(n *relaytest.Network, down bool) { n.SetLink(place, alice.ServerName, !down) },
	} {
		t.Run(name, func(t *testing.T) {
			inNetwork(t, func(t *testing.T, n *relaytest.Network) {
				waits := true
				n.Set(place, relaytest.Host{Latency: time.Second, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					if waits {
						<-r.Context().Done() // or the test never ends
					}
				})})
				broken := make(chan error, 1)
				go func() {
					_, err := ask(t.Context(), n, alice)
					broken <- err
				}()
				time.Sleep(time.Hour)
				set(n, true)
				require.ErrorIs(t, <-broken, relaytest.ErrOffline)
				_, err := ask(t.Context(), n, alice)
				require.ErrorIs(t, err, relaytest.ErrOffline)

				waits = false
				_, err = ask(t.Context(), n, bob)
				require.Equal(t, name == "destination", errors.Is(err, relaytest.ErrOffline), "others: %v", err)
				set(n, false)
				_, err = ask(t.Context(), n, alice)
				require.NoError(t, err)
			})
		})
	}
}

// TestClose has a network closed while a request waits, and one is on its way.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := relaytest.NewNetwork()
		var returned atomic.Int64
		n.Set(place, relaytest.Host{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			time.Sleep(time.Minute) // the last work of a handler
			returned.Add(1)
		})})
		broken := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := ask(t.Context(), n, alice)
				broken <- err
			}()
		}
		synctest.Wait()
		require.NoError(t, n.Close())
		require.EqualValues(t, 2, returned.Load(), "Close waits for handlers")
		require.ErrorIs(t, <-broken, relaytest.ErrClosed)
		require.ErrorIs(t, <-broken, relaytest.ErrClosed)
	})
}
