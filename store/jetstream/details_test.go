package jetstream

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
)

func openTest(t *testing.T, change func(*Options)) *Store {
	t.Helper()
	o := testOptions(startServer(t, nil))
	if change != nil {
		change(&o)
	}
	s := open(t, o)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func put(t *testing.T, s *Store, mail store.Mail) {
	t.Helper()
	stored, err := s.Put(t.Context(), mail, store.Limits{})
	require.NoError(t, err)
	require.True(t, stored)
}

func next(t *testing.T, s *Store, to spec.ServerName) []store.Entry {
	t.Helper()
	entries, err := s.Next(t.Context(), to, 0, 1000, 1<<30)
	require.NoError(t, err)
	return entries
}

// subjectsOf returns the subjects of the stream, without the name of the stream.
func subjectsOf(t *testing.T, s *Store) (names []string) {
	t.Helper()
	stream, err := s.engine.js.Stream(t.Context(), s.options.Stream)
	require.NoError(t, err)
	info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(">"))
	require.NoError(t, err)
	for _, subject := range slices.Sorted(maps.Keys(info.State.Subjects)) {
		names = append(names, strings.TrimPrefix(subject, s.options.Stream+"."))
	}
	return names
}

// Mail that is larger than a message of the server is kept in several.
func TestSmallMessages(t *testing.T) {
	t.Parallel()
	srv := startServer(t, func(o *server.Options) { o.MaxPayload = 32 << 10 })
	s := open(t, testOptions(srv))
	defer func() { require.NoError(t, s.Close()) }()
	large := testMail("large")
	large.Body = bytes.Repeat([]byte("0123456789"), 100_000)
	large.Proof = bytes.Repeat([]byte("p"), 40_000)
	put(t, s, testMail("small"))
	put(t, s, large)
	entries := next(t, s, "b.example")
	require.Len(t, entries, 2)
	require.True(t, bytes.Equal(large.Body, entries[1].Body))
	require.True(t, bytes.Equal(large.Proof, entries[1].Proof))

	larger := testMail("larger")
	larger.Body = make([]byte, 16<<20)
	_, err := s.Put(t.Context(), larger, store.Limits{})
	require.ErrorContains(t, err, "too large")
	require.NotErrorIs(t, err, store.ErrFull)

	_, err = s.Ack(t.Context(), "b.example", entries[1].ID)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return !slices.ContainsFunc(subjectsOf(t, s), func(name string) bool { return strings.HasPrefix(name, "part.") })
	}, patience, 100*time.Millisecond)
}

// A part of a mail that is missing makes it unreadable, as a whole.
func TestMissingPart(t *testing.T) {
	t.Parallel()
	srv := startServer(t, func(o *server.Options) { o.MaxPayload = 32 << 10 })
	s := open(t, testOptions(srv))
	defer func() { require.NoError(t, s.Close()) }()
	large := testMail("large")
	large.Body = make([]byte, 100_000)
	put(t, s, large)
	put(t, s, testMail("small"))
	stream, err := s.engine.js.Stream(t.Context(), s.options.Stream)
	require.NoError(t, err)
	require.NoError(t, stream.Purge(t.Context(), jetstream.WithPurgeSubject(s.cache.subjects.part(seal.KeyOf(&large), 2))))
	require.Len(t, next(t, s, "b.example"), 1)
	usage, err := s.Usage(t.Context(), "b.example")
	require.NoError(t, err)
	small := testMail("small")
	require.Equal(t, store.Usage{Entries: 1, Bytes: small.Size(), SetAside: 1}, usage)
}

// A server that has less than was seen is only believed once a commit has shown
// that the leader has no more.
func TestServerBehind(t *testing.T) {
	t.Parallel()
	srv := startServer(t, nil)
	s := open(t, testOptions(srv))
	defer func() { require.NoError(t, s.Close()) }()
	put(t, s, testMail("first"))
	m, err := s.engine.last(t.Context(), s.cache.subjects.box("b.example"))
	require.NoError(t, err)
	s.cache.learn(s.cache.subjects.box("b.example"), message{m.seq + 1, m.data})
	limit := func(bytes int64) {
		l := server.JetStreamAccountLimits{MaxMemory: -1, MaxStore: bytes, MaxStreams: -1, MaxConsumers: -1, MaxAckPending: -1}
		require.NoError(t, srv.GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": l}))
	}
	limit(1) // nothing can be committed
	_, err = s.Next(t.Context(), "b.example", 0, 1, 0)
	require.ErrorIs(t, err, errBehind)
	known, _ := s.cache.summary("b.example")
	_, err = s.Ack(t.Context(), "b.example", known.next) // which a server that isn't behind may have
	require.Error(t, err)
	limit(-1)
	require.Len(t, next(t, s, "b.example"), 1)
	removed, err := s.Ack(t.Context(), "b.example", known.next)
	require.NoError(t, err)
	require.Zero(t, removed)
	removed, err = s.Ack(t.Context(), "b.example", known.next-1)
	require.NoError(t, err)
	require.Equal(t, 1, removed)
}

// A process goes on with the rest when the stream has lost its end, as it may with
// a server that is alone, and learns of mail that others put then.
func TestStreamThatLostItsEnd(t *testing.T) {
	t.Parallel()
	o := testOptions(startServer(t, nil))
	o.Timeout = 2 * time.Second
	s := open(t, o)
	defer func() { require.NoError(t, s.Close()) }()
	for i := range 9 {
		put(t, s, testMail(fmt.Sprint(i)))
	}
	require.NoError(t, s.engine.js.DeleteStream(t.Context(), s.options.Stream))
	other := open(t, o)
	defer func() { require.NoError(t, other.Close()) }()
	put(t, other, testMail("other"))
	put(t, s, testMail("ours"))
	require.Eventually(t, func() bool {
		entries, err := s.Next(t.Context(), "b.example", 0, 10, 1<<20)
		return err == nil && len(entries) == 2
	}, patience, 10*time.Millisecond)
	mail := testMail("to another")
	mail.Destination = "c.example"
	put(t, other, mail)
	require.NoError(t, s.Wait(t.Context(), "c.example", 0))
}

// IDs and copies outlive a server that starts with an empty mailbox.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	change := func(o *server.Options) { o.StoreDir = dir }
	srv := startServer(t, change)
	s := open(t, testOptions(srv))
	put(t, s, testMail("first"))
	first := next(t, s, "b.example")[0].ID
	_, err := s.Ack(t.Context(), "b.example", first)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	srv.Shutdown()
	srv.WaitForShutdown()

	s = open(t, testOptions(startServer(t, change)))
	defer func() { require.NoError(t, s.Close()) }()
	stored, err := s.Put(t.Context(), testMail("first"), store.Limits{})
	require.NoError(t, err)
	require.False(t, stored)
	stream, err := s.engine.js.Stream(t.Context(), s.options.Stream)
	require.NoError(t, err)
	mail := testMail("first")
	trace, err := stream.GetLastMsgForSubject(t.Context(), s.cache.subjects.mail(seal.KeyOf(&mail)))
	require.NoError(t, err)
	require.Equal(t, "86400", trace.Header.Get(jetstream.MsgTTLHeader)) // the retention, which a test can't wait for
	put(t, s, testMail("second"))
	require.Greater(t, next(t, s, "b.example")[0].ID, first)
}

// A mailbox that is new gets more than fits into its record at once, also if that
// takes so long to prepare that the clock goes on.
func TestManyToANewMailbox(t *testing.T) {
	t.Parallel()
	s := openTest(t, nil)
	var jobs []*job
	var runs int
	for i := range 3 * pageSize {
		mail := testMail(fmt.Sprint(i))
		put, err := newPutJob(mail, store.Limits{})
		require.NoError(t, err)
		jobs = append(jobs, newJob(t, func(b *batch) error {
			if i == 0 {
				runs++
				time.Sleep(2 * time.Millisecond)
			}
			if runs > 100 {
				return errBehind
			}
			return put.run(b)
		}))
	}
	_, n, err := s.writer.prepare(jobs, careful)
	require.NoError(t, err)
	require.Equal(t, len(jobs), n)
	require.LessOrEqual(t, runs, 10)
}

// Mail that was acknowledged or has expired leaves nothing behind but the records
// that say so, for as long as they are kept.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	s := openTest(t, func(o *Options) { o.Retention = time.Second })
	const n = 5 * pageSize
	end := time.Now().Add(5 * time.Second)
	for i := range n {
		mail := testMail(fmt.Sprint(i))
		if i%2 == 0 {
			mail.Lifetime = max(time.Until(end), 1)
		}
		put(t, s, mail)
	}
	entries := next(t, s, "b.example") // the first of them may have expired
	last := entries[len(entries)-1].ID
	require.Eventually(t, func() bool {
		usage, err := s.Usage(t.Context(), "b.example")
		require.NoError(t, err)
		return usage.Entries == n/2
	}, patience, 50*time.Millisecond)
	require.Len(t, next(t, s, "b.example"), n/2)
	removed, err := s.Ack(t.Context(), "b.example", last)
	require.NoError(t, err)
	require.Equal(t, n/2, removed)
	require.Eventually(t, func() bool { return len(subjectsOf(t, s)) == 3 }, patience, 100*time.Millisecond,
		"more than the clock, a box and a share")
	usage, err := s.Usage(t.Context(), "")
	require.NoError(t, err)
	require.Zero(t, usage)
}
