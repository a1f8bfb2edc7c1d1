package relay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// Addresses of a phone and of a flood.
const phoneAddress, floodAddress = "192.0.2.1:5000", "203.0.113.9:5000"

// forged is a PUT with a signature that somebody could have made, but nobody did.
func (q *quiet) forged(origin spec.ServerName, address string, body []byte) *http.Request {
	r := httptest.NewRequest(http.MethodPut, wire.SendRelayURI("1", relaytest.User(q.b.ServerName)), bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", `X-Matrix origin="`+string(origin)+`",key="ed25519:1",sig="`+strings.Repeat("B", 85)+`A"`)
	r.RemoteAddr = address
	return r
}

// putRequest is a PUT of a transaction whose one PDU has a text of that size.
func (q *quiet) putRequest(from *relaytest.Node, address, id string, size int) *http.Request {
	q.Helper()
	uri := wire.SendRelayURI("1", relaytest.User(q.b.ServerName))
	r, err := from.Request(http.MethodPut, relayName, strings.Replace(uri, "/1/", "/"+id+"/", 1), largeContent(size))
	require.NoError(q, err)
	r.RemoteAddr = address
	return r
}

// uncanonical writes the body of a request in another form, which has the same
// signature.
func uncanonical(t testing.TB, r *http.Request) *http.Request {
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	body = append([]byte(" "), body...)
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return r
}

// A slowBody comes at some bytes a second, until it is cut off.
type slowBody struct {
	content *bytes.Reader
	rate    int
	cut     atomic.Bool
}

func (b *slowBody) Read(p []byte) (int, error) {
	if b.cut.Load() {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := b.content.Read(p[:min(len(p), max(1, b.rate/10))])
	time.Sleep(time.Duration(n) * time.Second / time.Duration(b.rate))
	return n, err
}

func (b *slowBody) Close() error { return nil }

// A cuttable answer can have its request's body cut off.
type cuttable struct {
	*httptest.ResponseRecorder
	body *slowBody
}

func (c *cuttable) SetReadDeadline(at time.Time) error {
	c.body.cut.Store(!at.IsZero() && at.Before(time.Now()))
	return nil
}

func (c *cuttable) SetWriteDeadline(time.Time) error { return nil }

// upload sends a request's body at some bytes a second.
func (q *quiet) upload(r *http.Request, rate int) (status int) {
	content, err := io.ReadAll(r.Body)
	require.NoError(q, err)
	body := &slowBody{content: bytes.NewReader(content), rate: rate}
	r.Body = body
	answer := &cuttable{httptest.NewRecorder(), body}
	q.server.ServeHTTP(answer, r)
	return answer.Code
}

// TestUploadFlood: six connections upload 10 MiB each with a wrong signature, at 5 MB a
// second together, again and again. None of the phones' uploads, which take longer than
// others wait, is refused; those of the flood are.
func TestUploadFlood(t *testing.T) {
	skipIfShort(t)
	quietly(t, nil, func(q *quiet) {
		ctx, stop := context.WithCancel(context.Background())
		large := largeContent(relay.DefaultMaxBodyBytes - 100)
		var flood, phones sync.WaitGroup
		var cut atomic.Int64
		for i := range 6 {
			node := relaytest.NewNode("flood" + string(rune('a'+i)))
			flood.Go(func() {
				for ctx.Err() == nil {
					switch status := q.upload(q.forged(node.ServerName, floodAddress, large), 5_000_000/6); status {
					case http.StatusTooManyRequests, http.StatusRequestTimeout:
						cut.Add(1)
					case http.StatusUnauthorized:
					default:
						t.Errorf("status %d", status)
					}
				}
			})
		}
		time.Sleep(5 * time.Second)
		for name, size := range map[string]int{"small": 20_000, "middle": 200_000, "large": 2_000_000} {
			phones.Go(func() {
				for i := range 3 {
					r := q.putRequest(q.a, phoneAddress, name+string(rune('0'+i)), size)
					if status := q.upload(r, size/30); status != http.StatusOK {
						t.Errorf("%s: status %d", name, status)
					}
				}
			})
		}
		phones.Wait()
		stop()
		flood.Wait()
		require.Positive(t, cut.Load())
		require.Zero(t, q.server.Held())
	})
}

// TestUncanonicalFlood: 20 connections send bodies of 250 KB that aren't canonical, with
// wrong signatures. They are checked no more often than their address may have checks,
// and those of others, and of one that signs, wait for nothing.
func TestUncanonicalFlood(t *testing.T) {
	skipIfShort(t)
	quietly(t, nil, func(q *quiet) {
		const size, time5 = 250_000, 5 * time.Second
		ctx, stop := context.WithTimeout(context.Background(), time5)
		defer stop()
		body := append([]byte(" "), largeContent(size)...)
		var flood sync.WaitGroup
		var checked, refused atomic.Int64
		for range 20 {
			flood.Go(func() {
				for ctx.Err() == nil {
					answer := httptest.NewRecorder()
					q.server.ServeHTTP(answer, q.forged(q.a.ServerName, floodAddress, body))
					switch answer.Code {
					case http.StatusUnauthorized:
						checked.Add(1)
					case http.StatusTooManyRequests:
						refused.Add(1)
						time.Sleep(wire.ParseError(answer.Code, answer.Header(), answer.Body.Bytes()).RetryAfter)
					default:
						t.Errorf("status %d", answer.Code)
					}
				}
			})
		}
		time.Sleep(time.Second)
		began := time.Now()
		for i := range 50 {
			answer := httptest.NewRecorder()
			q.server.ServeHTTP(answer, uncanonical(t, q.putRequest(q.a, phoneAddress, fmt.Sprint(i), size)))
			require.Equal(t, http.StatusOK, answer.Code)
		}
		require.Zero(t, time.Since(began), "honest ones don't wait, and pay nothing")
		flood.Wait()
		t.Logf("%d checked, %d refused", checked.Load(), refused.Load())
		most := (time5+relay.CheckCredit+time.Second)/(relay.WrongFactor*relay.FormCost*size) + 20 // that begin at once
		require.LessOrEqual(t, checked.Load(), int64(most))
		require.Positive(t, checked.Load())
	})
}

// TestSlowCheckIsPaid: so are checks that are left to fclient, but only if they fail: many
// servers of one address may wait for their keys.
func TestSlowCheckIsPaid(t *testing.T) {
	quietly(t, func(c *relay.Config) { c.Keys = wire.HexKeys{Others: wire.HexKeys{}} }, func(q *quiet) {
		statuses, began := make(map[int]int), time.Now()
		for range 300 {
			answer := httptest.NewRecorder()
			q.server.ServeHTTP(answer, q.forged("flood.example", floodAddress, largeContent(10_000)))
			statuses[answer.Code]++
		}
		require.Positive(t, statuses[http.StatusUnauthorized])
		require.Zero(t, statuses[http.StatusTooManyRequests], "each waits for its turn")
		require.Greater(t, time.Since(began), 2*time.Second)
		began = time.Now()
		answer := httptest.NewRecorder()
		q.server.ServeHTTP(answer, q.forged("flood.example", phoneAddress, largeContent(10_000)))
		require.Equal(t, http.StatusUnauthorized, answer.Code)
		require.Zero(t, time.Since(began))
	})
}

// hangingKeys never come.
type hangingKeys struct{}

func (hangingKeys) VerifyJSONs(ctx context.Context, _ []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A client that goes away while keys are looked up owes nothing, unless its body took
// long to check before that.
func TestClientThatGoesAwayOwesNothing(t *testing.T) {
	for first, owes := range map[string]bool{"": false, " ": true} {
		quietly(t, func(c *relay.Config) { c.Keys = wire.HexKeys{Others: hangingKeys{}} }, func(q *quiet) {
			body := append([]byte(first), largeContent(200_000)...)
			began := time.Now()
			for range 4 {
				ctx, leave := context.WithTimeout(q.Context(), time.Millisecond)
				q.server.ServeHTTP(httptest.NewRecorder(), q.forged("slow.example", phoneAddress, body).WithContext(ctx))
				leave()
			}
			answer := httptest.NewRecorder()
			q.server.ServeHTTP(answer, uncanonical(t, q.putRequest(q.a, phoneAddress, "1", 1000)))
			require.Equal(t, http.StatusOK, answer.Code)
			require.Equal(t, owes, time.Since(began) > 5*time.Millisecond)
		})
	}
}

// A body of a known key whose form isn't certain is left to fclient, too, and costs as
// much, but only if its signature is wrong.
func TestUncertainFormIsPaid(t *testing.T) {
	quietly(t, nil, func(q *quiet) {
		twice := json.RawMessage(`{"pdus":[{"b":1,"b":2,"a":"` + strings.Repeat("x", 10_000) + `"}]}`)
		began := time.Now()
		for i := range 100 {
			r, err := q.a.Request(http.MethodPut, relayName, wire.SendRelayURI(gomatrixserverlib.TransactionID(fmt.Sprint(i)), relaytest.User(q.b.ServerName)), twice)
			require.NoError(t, err)
			r.RemoteAddr = floodAddress
			answer := httptest.NewRecorder()
			q.server.ServeHTTP(answer, r)
			require.Equal(t, http.StatusOK, answer.Code, answer.Body)
		}
		require.Zero(t, time.Since(began))
		for range 100 {
			answer := httptest.NewRecorder()
			q.server.ServeHTTP(answer, q.forged(q.a.ServerName, floodAddress, twice))
			require.Equal(t, http.StatusUnauthorized, answer.Code)
		}
		require.Greater(t, time.Since(began), 98*10_000*relay.SlowCost-relay.CheckCredit)
	})
}

// A heldStore says how much memory bodies hold while they are stored.
type heldStore struct {
	store.Store
	held func() int64
	at   []int64
}

func (s *heldStore) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	s.at = append(s.at, s.held())
	return s.Store.Put(ctx, mail, limits)
}

// The memory for the forms of a body that isn't canonical is held until the body is
// stored: it is read again after its signature was checked.
func TestUncanonicalIsHeld(t *testing.T) {
	mail := &heldStore{}
	q := newQuiet(t, func(c *relay.Config) { mail.Store, c.Store = c.Store, mail })
	mail.held = q.server.Held
	twice := json.RawMessage(`{"pdus":[{"b":1,"b":2,"a":"` + strings.Repeat("x", 1<<20) + `"}]}`)
	odd, err := q.a.Request(http.MethodPut, relayName, wire.SendRelayURI("1", relaytest.User(q.b.ServerName)), twice)
	require.NoError(t, err)
	for _, c := range []struct {
		r     *http.Request
		times int64
	}{{q.putRequest(q.a, phoneAddress, "2", 1<<20), 1}, {uncanonical(t, q.putRequest(q.a, phoneAddress, "3", 1<<20)), 4}, {odd, 12}} {
		answer := httptest.NewRecorder()
		q.server.ServeHTTP(answer, c.r)
		require.Equal(t, http.StatusOK, answer.Code, answer.Body)
		got := mail.at[len(mail.at)-1]
		require.InDelta(t, c.times, float64(got)/(1<<20), 0.01)
		require.Zero(t, q.server.Held())
	}
}

// countedKeys say how many checks hang, and never come.
type countedKeys struct{ now atomic.Int32 }

func (k *countedKeys) VerifyJSONs(ctx context.Context, _ []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	k.now.Add(1)
	defer k.now.Add(-1)
	<-ctx.Done()
	return nil, ctx.Err()
}

// Checks of small bodies that are left to fclient together take no more than there is. A
// phone whose check takes as much has its turn while an address does its worst.
func TestSmallSlowChecksFitInMemory(t *testing.T) {
	const size, most, slowFactor = 200_000, 20 << 20, 12
	keys := new(countedKeys)
	quietly(t, func(c *relay.Config) {
		c.MaxInFlightBytes, c.Keys = most, wire.HexKeys{Others: keys}
	}, func(q *quiet) {
		ctx, stop := context.WithCancel(q.Context())
		statuses := make(chan int, 100)
		var flood sync.WaitGroup
		for range 100 {
			flood.Go(func() {
				answer := httptest.NewRecorder()
				q.server.ServeHTTP(answer, q.forged("slow.example", floodAddress, largeContent(size)).WithContext(ctx))
				statuses <- answer.Code
			})
		}
		synctest.Wait()
		require.LessOrEqual(t, q.server.Held(), int64(most))
		require.EqualValues(t, most/(slowFactor*size), keys.now.Load())
		phone := httptest.NewRecorder()
		q.server.ServeHTTP(phone, uncanonical(t, q.putRequest(q.a, phoneAddress, "1", size)))
		require.Equal(t, http.StatusOK, phone.Code, phone.Body)
		time.Sleep(10 * time.Second)
		require.LessOrEqual(t, keys.now.Load(), int32(most/(slowFactor*size)))
		stop()
		flood.Wait()
		require.Zero(t, q.server.Held())
		close(statuses)
		counts := make(map[int]int)
		for status := range statuses {
			counts[status]++
		}
		require.Greater(t, counts[http.StatusTooManyRequests], 80, "the others gave up waiting")
	})
}
