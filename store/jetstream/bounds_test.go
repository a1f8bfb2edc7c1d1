package jetstream

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/group"
	"github.com/matrixrelay/relay/store/internal/wake"
)

// Messages of one server that differ from those of the leader make no entry unreadable.
func TestBadReplica(t *testing.T) {
	t.Parallel()
	s := openTest(t, nil)
	put(t, s, testMail("first"))
	stream, err := s.engine.js.Stream(t.Context(), s.options.Stream)
	require.NoError(t, err)
	config := stream.CachedInfo().Config
	config.AllowDirect = false
	_, err = s.engine.js.UpdateStream(t.Context(), config)
	require.NoError(t, err)
	conn, err := nats.Connect(s.options.URL)
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Subscribe(s.engine.api("DIRECT.GET")+".>", func(m *nats.Msg) {
		_ = m.RespondMsg(&nats.Msg{Header: nats.Header{jetstream.SequenceHeader: {"1"}}, Data: []byte("something else")})
	})
	require.NoError(t, err)
	require.NoError(t, conn.Flush())
	require.Len(t, next(t, s, "b.example"), 1)
	usage, err := s.Usage(t.Context(), "b.example")
	require.NoError(t, err)
	require.Zero(t, usage.SetAside)
}

// Jobs whose time is over aren't kept waiting for as long as others would be.
func TestReadingForJobsThatAreLate(t *testing.T) {
	t.Parallel()
	srv := startServer(t, nil)
	s := open(t, testOptions(srv))
	s.engine.timeout = time.Hour
	srv.Shutdown()
	mail := testMail("first")
	put, err := newPutJob(mail, store.Limits{})
	require.NoError(t, err)
	_, _, err = s.writer.prepare([]*job{group.NewJob(t.Context(), &work{run: put.run, end: time.Now()}, 0)}, careful)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, s.Close())
}

// Waiting for another's sweep ends with the context.
func TestWaitingEnds(t *testing.T) {
	t.Parallel()
	s := openTest(t, func(o *Options) { o.SweepInterval = time.Hour })
	require.NoError(t, s.sweeping.Take(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.sweep(ctx)
	require.ErrorIs(t, err, context.Canceled)
	s.sweeping.Give()
}

// Messages that are too small for anything make a Put fail, and no more.
func TestMessagesTooSmall(t *testing.T) {
	t.Parallel()
	s := openTest(t, func(o *Options) { o.MaxBytes = 1 << 20 })
	put(t, s, testMail("first"))
	s.engine.most = headroom
	_, err := s.Put(t.Context(), testMail("second"), store.Limits{})
	require.Error(t, err)
	require.NotErrorIs(t, err, store.ErrFull)
	require.Len(t, next(t, s, "b.example"), 1)
}

// Pages of destinations are those of all names in their order.
func TestPagesOfDestinations(t *testing.T) {
	t.Parallel()
	c := newCache("R", new(wake.Hub))
	var want []spec.ServerName
	for i := range 500 {
		name := spec.ServerName(fmt.Sprintf("%x", (i*7919)%500))
		c.boxes[name] = summary{counts: counts{entries: int64(i % 5)}}
		if i%5 > 0 {
			want = append(want, name)
		}
	}
	slices.Sort(want)
	for _, limit := range []int{1, 3, 99, 200, 201, len(want), 1 << 62} {
		got, after := []spec.ServerName{}, spec.ServerName("")
		for {
			page := c.destinations(after, limit)
			if len(page) == 0 {
				break
			}
			require.LessOrEqual(t, len(page), limit)
			got, after = append(got, page...), page[len(page)-1]
		}
		require.Equal(t, want, got, "by %d", limit)
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	for code, want := range map[jetstream.ErrorCode]verdict{
		10002: full, 10023: full, 10047: full, 10199: tooMany, 10071: conflict, 10164: conflict,
		10004: again, 10008: again, 10009: again, 10118: again, 10163: again, 10167: again, 10176: again, 10210: again,
		10054: final, 10174: final, 10109: final,
	} {
		require.Equal(t, want, verdictOn(&jetstream.APIError{ErrorCode: code}), "%d", code)
	}
	require.Equal(t, full, verdictOn(&jetstream.APIError{ErrorCode: 10077, Description: "maximum bytes exceeded"}))
	require.Equal(t, again, verdictOn(nats.ErrNoResponders))
	require.Equal(t, final, verdictOn(nats.ErrConnectionClosed))
}
