package jetstream

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
)

// A server that allows small batches only makes removing take more of them.
func TestSmallBatches(t *testing.T) {
	t.Parallel()
	srv := startServer(t, func(o *server.Options) { o.JetStreamLimits.MaxBatchSize = 60 })
	s := open(t, testOptions(srv))
	defer func() { require.NoError(t, s.Close()) }()
	const n = 300
	end := time.Now().Add(3 * time.Second)
	putting := make(chan error, n)
	for i := range n {
		mail := testMail(fmt.Sprint(i))
		mail.Origin = spec.ServerName(fmt.Sprint("origin", i))
		if i%2 == 1 {
			mail.Lifetime = max(time.Until(end), 1)
		}
		go func() {
			_, err := s.Put(t.Context(), mail, store.Limits{})
			putting <- err
		}()
	}
	for range n {
		require.NoError(t, <-putting)
	}
	require.Eventually(t, func() bool {
		usage, err := s.Usage(t.Context(), "b.example")
		require.NoError(t, err)
		return usage.Entries == n/2
	}, patience, 50*time.Millisecond)
	entries := next(t, s, "b.example")
	require.Len(t, entries, n/2)
	removed, err := s.Ack(t.Context(), "b.example", entries[n/2-1].ID)
	require.NoError(t, err)
	require.Equal(t, n/2, removed)
}

// More processes that write than the server takes batches at once wait for their
// turn.
func TestManyBatches(t *testing.T) {
	t.Parallel()
	srv := startServer(t, func(o *server.Options) {
		o.JetStreamLimits.MaxBatchInflightPerStream = 1
		o.JetStreamLimits.MaxBatchTimeout = patience
	})
	var putting sync.WaitGroup
	const processes, each = 5, 20
	for i := range processes {
		s := open(t, testOptions(srv))
		defer func() { require.NoError(t, s.Close()) }()
		putting.Go(func() {
			for n := range each {
				stored, err := s.Put(t.Context(), testMail(fmt.Sprint(i, "/", n)), store.Limits{})
				assert.NoError(t, err)
				assert.True(t, stored)
			}
		})
	}
	putting.Wait()

	// Now for certain: somebody's batch is under way until others were refused.
	sent := &cutter{}
	s := openThrough(t, srv, sent)
	part := func(n int, commit string) *nats.Msg {
		return &nats.Msg{Subject: s.options.Stream + ".other", Header: nats.Header{
			"Nats-Batch-Id": {"other"}, "Nats-Batch-Sequence": {fmt.Sprint(n)}, "Nats-Batch-Commit": {commit},
		}}
	}
	begin := part(1, "")
	begin.Header.Del("Nats-Batch-Commit")
	_, err := s.engine.conn.RequestMsg(begin, patience)
	require.NoError(t, err)
	putting.Go(func() {
		stored, err := s.Put(t.Context(), testMail("last"), store.Limits{})
		assert.NoError(t, err)
		assert.True(t, stored)
	})
	require.Eventually(t, func() bool { return sent.commits.Load() > 3 }, patience, time.Millisecond)
	answer, err := s.engine.conn.RequestMsg(part(2, "1"), patience)
	require.NoError(t, err)
	require.NotContains(t, string(answer.Data), "error")
	putting.Wait()
	require.Len(t, next(t, s, "b.example"), processes*each+1)
}

// A mail that the account has no room for is refused soon, also if the room ends in the
// middle of a batch. Mail that was to be committed with it isn't refused.
func TestAccountFull(t *testing.T) {
	t.Parallel()
	srv := startServer(t, nil)
	none := server.JetStreamAccountLimits{MaxMemory: -1, MaxStore: 2 << 20, MaxStreams: -1, MaxConsumers: -1, MaxAckPending: -1}
	require.NoError(t, srv.GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": none}))
	s := open(t, testOptions(srv))
	defer func() { require.NoError(t, s.Close()) }()
	for i := range 2 {
		mail := testMail(fmt.Sprint(i))
		mail.Body = make([]byte, 800_000)
		put(t, s, mail)
	}
	large := testMail("large")
	large.Body = make([]byte, 1_500_000)
	_, err := s.Put(t.Context(), large, store.Limits{})
	require.ErrorIs(t, err, store.ErrFull)
	put(t, s, testMail("small"))
	var jobs []*job
	for _, mail := range []store.Mail{large, testMail("beside")} {
		put, err := newPutJob(mail, store.Limits{})
		require.NoError(t, err)
		jobs = append(jobs, newJob(t, put.run))
	}
	require.Empty(t, s.writer.commit(jobs)) // nobody else uses the writer
	require.ErrorIs(t, jobs[0].Err, store.ErrFull)
	require.NoError(t, jobs[1].Err)
	entries := next(t, s, "b.example")
	require.Len(t, entries, 4)
	_, err = s.Ack(t.Context(), "b.example", entries[0].ID)
	require.NoError(t, err)
}

// A stream that has a limit keeps room for removing mail, and then has room again.
func TestStreamFull(t *testing.T) {
	t.Parallel()
	srv := startServer(t, nil)
	o := testOptions(srv)
	o.MaxBytes, o.Retention = 1<<20, time.Second
	s := open(t, o)
	defer func() { require.NoError(t, s.Close()) }()
	fill := func(prefix string) (n int) {
		for ; ; n++ {
			mail := testMail(fmt.Sprint(prefix, n))
			mail.Body = make([]byte, 1000)
			if _, err := s.Put(t.Context(), mail, store.Limits{}); err != nil {
				require.ErrorIs(t, err, store.ErrFull)
				return n
			}
		}
	}
	first := fill("first")
	require.Greater(t, first, 300)
	require.ErrorIs(t, s.SetNotes(t.Context(), []store.Note{{Key: "key", Value: make([]byte, 200_000)}}), store.ErrFull)
	require.NoError(t, s.SetNotes(t.Context(), []store.Note{{Key: "key"}}))
	entries := next(t, s, "b.example")
	removed, err := s.Ack(t.Context(), "b.example", entries[len(entries)-1].ID)
	require.NoError(t, err)
	require.Equal(t, len(entries), removed)
	again, round := 0, 0
	require.Eventually(t, func() bool {
		round++
		again += fill(fmt.Sprint(round, "/"))
		return again > first/2
	}, patience, 100*time.Millisecond)
}

// A stream of which the administrator has bounded the messages keeps more of them.
func TestSmallStreamMessages(t *testing.T) {
	t.Parallel()
	srv := startServer(t, nil)
	o := testOptions(srv)
	s := open(t, o)
	stream, err := s.engine.js.Stream(t.Context(), s.options.Stream)
	require.NoError(t, err)
	config := stream.CachedInfo().Config
	config.MaxMsgSize = 50_000
	_, err = s.engine.js.UpdateStream(t.Context(), config)
	require.NoError(t, err)
	require.NoError(t, s.Close())

	s = open(t, o)
	defer func() { require.NoError(t, s.Close()) }()
	large := testMail("large")
	large.Body = make([]byte, 200_000)
	put(t, s, large)
	require.Equal(t, large.Body, next(t, s, "b.example")[0].Body)
}

// The largest transaction that a relay takes fits through servers with small
// messages.
func TestLargestMail(t *testing.T) {
	for _, payload := range []int32{32 << 10, 64 << 10, 8 << 20} {
		o := testOptions(startServer(t, func(o *server.Options) { o.MaxPayload = payload }))
		s := open(t, o)
		largest := testMail("largest")
		largest.Body = make([]byte, 10<<20)
		largest.Proof = make([]byte, 10_000)
		for i := range largest.Body {
			largest.Body[i] = byte(i % 251)
		}
		put(t, s, largest)
		entries := next(t, s, "b.example")
		require.Len(t, entries, 1)
		require.True(t, string(largest.Body) == string(entries[0].Body))
		m, err := s.engine.last(t.Context(), s.cache.subjects.part(seal.KeyOf(&largest), 1))
		require.NoError(t, err) // the answer of the leader is in base64
		require.Len(t, m.data, s.engine.maxMessage())
		_, err = s.Ack(t.Context(), "b.example", entries[0].ID)
		require.NoError(t, err)
		require.NoError(t, s.Close())
	}
}
