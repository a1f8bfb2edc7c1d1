package admin

import (
	"context"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A silent relay answers nothing, or nothing behind the head of an answer.
type silent struct{ head bool }

func (s silent) RoundTrip(r *http.Request) (*http.Response, error) {
	if !s.head {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	header := http.Header{beganHeader: {time.Now().UTC().Format(time.RFC3339)}}
	return &http.Response{StatusCode: http.StatusOK, Header: header, Body: stalled{r.Context()}, ContentLength: 1, Request: r}, nil
}

// stalled is a body that gives nothing until a context ends.
type stalled struct{ context.Context }

func (s stalled) Read([]byte) (int, error) {
	<-s.Done()
	return 0, s.Err()
}

func (s stalled) Close() error { return nil }

// A call ends though the relay hangs. A backup, which may take hours, does so with its
// context alone.
func TestCallsEnd(t *testing.T) {
	for _, relay := range []silent{{}, {head: true}} {
		synctest.Test(t, func(t *testing.T) {
			client, err := NewClient("http://relay.example", "")
			require.NoError(t, err)
			client.http.Transport = relay
			began := time.Now()
			_, err = client.Status(t.Context())
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, client.Forget(t.Context(), "a.example"), context.DeadlineExceeded)
			require.Equal(t, 2*callTime, time.Since(began))

			ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
			defer cancel()
			began = time.Now()
			copied, err := client.Backup(ctx)
			if relay.head {
				require.NoError(t, err)
				_, err = io.ReadAll(copied)
			}
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, 24*time.Hour, time.Since(began))
		})
	}
}
