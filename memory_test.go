package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

const inFlight = 1 << 20

func largeContent(size int) json.RawMessage {
	return json.RawMessage(`{"pdus":[{"a":"` + strings.Repeat("x", size) + `"}]}`)
}

// A hog is a PUT that has sent all but its last byte.
type hog struct {
	rest     *io.PipeWriter
	last     []byte
	answered chan int // 0: the connection was closed
}

func (r *rig) startHog() *hog {
	r.Helper()
	uri := "/_matrix/federation/v1/send_relay/hog/@user:" + string(r.b.ServerName)
	request, err := r.a.Request(http.MethodPut, relayName, uri, largeContent(inFlight/2))
	require.NoError(r, err)
	content, err := io.ReadAll(request.Body)
	require.NoError(r, err)
	reader, writer := io.Pipe()
	request.Body, request.GetBody = reader, nil
	h := &hog{rest: writer, last: content[len(content)-1:], answered: make(chan int, 1)}
	r.Cleanup(func() { _ = writer.Close() }) // a test that fails mustn't wait for it
	go func() {
		response, err := r.network.RoundTrip(request)
		if err != nil {
			h.answered <- 0
			return
		}
		_ = response.Body.Close()
		h.answered <- response.StatusCode
	}()
	_, err = writer.Write(content[:len(content)-1])
	require.NoError(r, err)
	return h
}

func (h *hog) finish(t testing.TB) int {
	_, err := h.rest.Write(h.last)
	require.NoError(t, err)
	require.NoError(t, h.rest.Close())
	return <-h.answered
}

// While others are sending as much as may be in memory, the next is told to
// come back.
func TestTooMuchInFlight(t *testing.T) {
	r := newRig(t, func(c *relay.Config) { c.MaxBodyBytes, c.MaxInFlightBytes = inFlight, inFlight })
	r.server.LongGrace()
	h := r.startHog()
	require.Eventually(t, func() bool {
		status, body := r.put(r.a, "1", r.b.ServerName, string(largeContent(inFlight/2)))
		if status == http.StatusOK {
			return false // the hog's bytes were still on their way
		}
		requireError(t, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", status, body)
		require.Contains(t, body, `"retry_after_ms":1000`)
		return true
	}, generous, tick)
	status, _ := r.put(r.a, "2", r.b.ServerName, `{"pdus":[]}`)
	require.Equal(t, http.StatusOK, status, "a small one finds room")

	require.Equal(t, http.StatusOK, h.finish(t))
	require.Zero(t, r.server.Held(), "everything was given back")
}

// A slow sender stops nobody: the slowest is cut off for the next, and told to
// come back.
func TestSlowBodyIsCutOff(t *testing.T) {
	r := newRig(t, func(c *relay.Config) { c.MaxBodyBytes, c.MaxInFlightBytes = inFlight, inFlight })
	r.server.NoGrace()
	h := r.startHog()
	for i := 0; len(h.answered) == 0; i++ {
		require.Less(t, i, 10_000)
		status, body := r.put(r.a, fmt.Sprint(i), r.c.ServerName, string(largeContent(inFlight/2)))
		require.Equal(t, http.StatusOK, status, body)
	}
	require.Contains(t, []int{0, http.StatusTooManyRequests}, <-h.answered)
	require.Empty(t, r.fetch(r.b))
}

// askWithoutReading asks for mail and reads no more than the beginning of the
// answer.
func (r *rig) askWithoutReading(node *relaytest.Node) {
	r.Helper()
	request, err := node.Request(http.MethodGet, relayName, "/_matrix/federation/v1/relay_txn/@user:"+string(node.ServerName), fclient.RelayEntry{})
	require.NoError(r, err)
	conn, err := net.Dial("tcp", r.address)
	require.NoError(r, err)
	r.Cleanup(func() { _ = conn.Close() })
	require.NoError(r, request.Write(conn))
	_, err = io.ReadFull(conn, make([]byte, 100)) // it is being answered
	require.NoError(r, err)
}

// A receiver that asks and doesn't read stops nobody either, and takes no more
// memory than there is.
func TestUnreadAnswersAreCutOff(t *testing.T) {
	const size = 9 << 20 // more than a connection holds
	r := newRig(t, func(c *relay.Config) { c.MaxInFlightBytes = 10 << 20 })
	r.server.NoGrace()
	for _, to := range []*fclient.SigningIdentity{&r.b.SigningIdentity, &r.c.SigningIdentity} {
		status, body := r.put(r.a, "1", to.ServerName, string(largeContent(size)))
		require.Equal(t, http.StatusOK, status, body)
	}
	for range 5 {
		r.askWithoutReading(r.c)
	}
	for _, node := range []*relaytest.Node{r.b, r.c} {
		require.Eventually(t, func() bool {
			status, body := r.ask(node, node.ServerName, `{"entry_id":0}`)
			if status == http.StatusTooManyRequests {
				return false // until one that was cut off has ended
			}
			require.Equal(t, http.StatusOK, status)
			return json.Valid([]byte(body)) && strings.Contains(body, `,"entries_queued":true,`)
		}, generous, tick)
	}
}

// A transfer that is alone gets through, with any budget, so that no mail blocks
// its mailbox.
func TestAloneInTheBudget(t *testing.T) {
	r := newRig(t, func(c *relay.Config) { c.MaxBodyBytes, c.MaxInFlightBytes = inFlight, inFlight/4 })
	status, body := r.put(r.a, "1", r.b.ServerName, string(largeContent(inFlight-100)))
	require.Equal(t, http.StatusOK, status, body)
	require.Len(t, r.fetch(r.b), 1)
}

// Close waits for mail that is being stored, and for no sender that dribbles.
func TestCloseEndsTransfers(t *testing.T) {
	r := newRig(t, nil)
	r.server.NoGrace()
	h := r.startHog()
	require.Eventually(t, func() bool { return r.server.Held() > 0 }, generous, tick)
	require.NoError(t, r.server.Close())
	require.Contains(t, []int{0, http.StatusTooManyRequests}, <-h.answered)
}

// Nor does Close wait for a receiver that doesn't read its answer.
func TestCloseEndsAnswers(t *testing.T) {
	const size = 9 << 20 // more than a connection holds
	r := newRig(t, nil)
	r.server.NoGrace()
	status, body := r.put(r.a, "1", r.b.ServerName, string(largeContent(size)))
	require.Equal(t, http.StatusOK, status, body)
	r.askWithoutReading(r.b)
	closed := make(chan error, 1)
	go func() { closed <- r.server.Close() }()
	select {
	case err := <-closed:
		require.NoError(t, err)
	case <-time.After(generous):
		t.Fatal("Close waits for an answer that nobody reads")
	}
	usage, err := r.store.Usage(t.Context(), r.b.ServerName)
	require.NoError(t, err)
	require.EqualValues(t, 1, usage.Entries, "what was cut off comes again")
}

// slowKeys look up a key for as long as they may.
type slowKeys struct{ asked chan struct{} }

func (s slowKeys) VerifyJSONs(ctx context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	s.asked <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

// Nor does a sender that has a slow server for its keys.
func TestSlowKeysAreCutOff(t *testing.T) {
	keys := slowKeys{make(chan struct{}, 1)}
	r := newRig(t, func(c *relay.Config) {
		c.MaxBodyBytes, c.MaxInFlightBytes = inFlight, inFlight
		c.Keys = wire.HexKeys{Others: keys}
	})
	r.server.NoGrace()
	slow := *r.a
	slow.ServerName = "slow.example"
	answered := make(chan int, 1)
	go func() {
		status, _ := r.put(&slow, "1", r.b.ServerName, string(largeContent(inFlight/2)))
		answered <- status
	}()
	<-keys.asked
	status, body := r.put(r.a, "1", r.b.ServerName, string(largeContent(inFlight/2)))
	require.Equal(t, http.StatusOK, status, body)
	require.Equal(t, http.StatusTooManyRequests, <-answered)
}
