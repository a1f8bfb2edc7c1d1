package relay_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// begin makes a PUT from an address whose body doesn't come, until the pipe is closed.
func (q *quiet) begin(from string, all *sync.WaitGroup) (*httptest.ResponseRecorder, *io.PipeWriter) {
	body, ours := io.Pipe()
	r := httptest.NewRequest(http.MethodPut, wire.SendRelayURI("1", relaytest.User(q.b.ServerName)), body)
	r.Header.Set("Authorization", fmt.Sprintf(`X-Matrix origin="%s",key="ed25519:1",sig="%s"`, q.a.ServerName, forgedSignature))
	r.RemoteAddr = from
	w := httptest.NewRecorder()
	all.Go(func() { q.server.ServeHTTP(w, r) })
	synctest.Wait()
	return w, ours
}

// One address has a bounded number of requests that are worked on at once, besides those
// that wait for mail. Further ones are refused, after the pause of refusals.
func TestBusyAddress(t *testing.T) {
	const most = 256
	quietly(t, nil, func(q *quiet) {
		for i := range most {
			require.True(q, q.askFrom(floodAddress, relaytest.NewNode(fmt.Sprint(i)), 0, "?timeout=3600000").waits())
		}
		var all sync.WaitGroup
		var bodies []*io.PipeWriter
		for range most {
			_, body := q.begin(floodAddress, &all)
			bodies = append(bodies, body)
		}
		began := time.Now()
		refused := q.startFrom(floodAddress, q.b, 0, "")
		<-refused.isThere
		require.Equal(q, http.StatusTooManyRequests, refused.answer.Code)
		require.Equal(q, "1", refused.answer.Header().Get("Retry-After"))
		require.Equal(q, time.Second/2, time.Since(began))
		other := q.askFrom(phoneAddress, q.b, 0, "")
		other.requireEmpty(q, wire.EmptyAnswer)

		_ = bodies[0].CloseWithError(io.ErrUnexpectedEOF)
		synctest.Wait()
		q.askFrom(floodAddress, q.b, 0, "").requireEmpty(q, wire.EmptyAnswer)
		for _, body := range bodies {
			_ = body.CloseWithError(io.ErrUnexpectedEOF)
		}
		all.Wait()
		for range 2 * most {
			q.askFrom(floodAddress, q.b, 0, "").requireEmpty(q, wire.EmptyAnswer)
		}
	})
}
