package jetstream

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// A soon is a context that ends long before the time of a call, which in these
// tests is an hour, but long after it has to have failed.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// calls makes one of each kind, and returns their errors.
func calls(t *testing.T, s *Store) map[string]error {
	errs := make(map[string]error)
	_, errs["Put"] = s.Put(soon(t), testMail("second"), store.Limits{})
	_, errs["Next"] = s.Next(soon(t), "b.example", 0, 1, 1)
	_, errs["Ack"] = s.Ack(soon(t), "b.example", 1)
	_, errs["Usage"] = s.Usage(soon(t), "b.example")
	errs["SetNotes"] = s.SetNotes(soon(t), []store.Note{{Key: "key", Value: []byte("value")}})
	_, errs["Notes"] = s.Notes(soon(t), "", "", 1)
	return errs
}

// requireFailed waits until the store says why it must be reopened.
func requireFailed(t *testing.T, s *Store, why error) {
	t.Helper()
	select {
	case <-s.Failed():
		require.ErrorIs(t, s.Failure(), store.ErrReopen)
		require.ErrorIs(t, s.Failure(), why)
	case <-soon(t).Done():
		require.Fail(t, "the store doesn't say that it must be reopened")
	}
}

func longTimeout(o *Options) { o.Timeout = time.Hour }

// Of a stream that was deleted everything says so, and opening makes a new one.
func TestDeletedStream(t *testing.T) {
	t.Parallel()
	srv := startServer(t, nil)
	o := testOptions(srv)
	longTimeout(&o)
	watched, said := o, bytes.Buffer{}
	watched.Logger = slog.New(slog.NewTextHandler(&said, nil))
	s := open(t, watched)
	put(t, s, testMail("first"))
	require.NoError(t, s.engine.js.DeleteStream(t.Context(), "RELAY"))
	for call, err := range calls(t, s) {
		assert.ErrorIs(t, err, store.ErrReopen, call)
		assert.ErrorContains(t, err, "deleted", call)
	}
	requireFailed(t, s, jetstream.ErrStreamNotFound)
	other := open(t, o) // makes a new one, in which this store doesn't go on
	defer func() { require.NoError(t, other.Close()) }()
	_, err := s.Put(soon(t), testMail("first"), store.Limits{})
	require.ErrorIs(t, err, store.ErrReopen)
	require.NoError(t, s.Close())
	require.Equal(t, 1, strings.Count(said.String(), "must be reopened"), "one line says it: %s", &said)
	s = open(t, o)
	defer func() { require.NoError(t, s.Close()) }()
	put(t, s, testMail("first"))
}

// So does everything that writes to a stream that is sealed, and its mail is still
// read.
func TestSealedStream(t *testing.T) {
	t.Parallel()
	for name, servers := range map[string]int{"one server": 1, "three servers": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var srv *server.Server
			if servers == 1 {
				srv = startServer(t, nil)
			} else {
				srv = startServers(t, servers, nil)[0]
			}
			o := testOptions(srv)
			longTimeout(&o)
			s := open(t, o)
			put(t, s, testMail("first"))
			stream, err := s.engine.js.Stream(t.Context(), "RELAY")
			require.NoError(t, err)
			config := stream.CachedInfo().Config
			config.Sealed = true
			_, err = s.engine.js.UpdateStream(t.Context(), config)
			require.NoError(t, err)
			entries := next(t, s, "b.example")
			require.Len(t, entries, 1)
			_, err = s.Put(soon(t), testMail("second"), store.Limits{})
			require.ErrorContains(t, err, "sealed")
			_, err = s.Ack(soon(t), "b.example", entries[0].ID)
			require.ErrorContains(t, err, "sealed")
			require.NoError(t, s.Close())
			_, err = Open(soon(t), o)
			require.ErrorIs(t, err, errSealed)
		})
	}
}

// A stream that was purged has no mail, and takes new mail, with IDs that nobody
// has.
func TestPurgedStream(t *testing.T) {
	t.Parallel()
	s := openTest(t, longTimeout)
	put(t, s, testMail("first"))
	last := next(t, s, "b.example")[0].ID
	other := testMail("other")
	other.Destination = "c.example"
	put(t, s, other)
	stream, err := s.engine.js.Stream(t.Context(), "RELAY")
	require.NoError(t, err)
	require.NoError(t, stream.Purge(t.Context()))
	_, err = s.Next(soon(t), "b.example", 0, 1, 1)
	require.ErrorIs(t, err, store.ErrEmpty)
	removed, err := s.Ack(soon(t), "c.example", last)
	require.NoError(t, err)
	require.Zero(t, removed)
	usage, err := s.Usage(soon(t), "")
	require.NoError(t, err)
	require.Zero(t, usage)
	put(t, s, testMail("first"))
	require.Greater(t, next(t, s, "b.example")[0].ID, last)
}

// A stream in the place of ours that isn't a relay's is no reason to wait.
func TestReplacedStream(t *testing.T) {
	t.Parallel()
	s := openTest(t, longTimeout)
	put(t, s, testMail("first"))
	stream, err := s.engine.js.Stream(t.Context(), "RELAY")
	require.NoError(t, err)
	config := stream.CachedInfo().Config
	require.NoError(t, s.engine.js.DeleteStream(t.Context(), "RELAY"))
	config.AllowAtomicPublish = false
	_, err = s.engine.js.CreateStream(t.Context(), config)
	require.NoError(t, err)
	for call, err := range calls(t, s) {
		if call != "Notes" { // of which that stream just has none
			assert.ErrorContains(t, err, "atomic publish", call)
		}
	}
}

// Every call says that permissions are lost.
func TestLostPermissions(t *testing.T) {
	t.Parallel()
	user := &server.User{Username: "relay", Password: "word"}
	config := &server.Options{}
	srv := startServer(t, func(o *server.Options) { o.Users, config = []*server.User{user}, o })
	conn, err := nats.Connect(srv.ClientURL(), nats.UserInfo("relay", "word"), nats.MaxReconnects(-1),
		nats.ReconnectWait(time.Millisecond), nats.ReconnectBufSize(-1), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	require.NoError(t, err)
	defer conn.Close()
	o := testOptions(nil)
	o.Conn = conn
	longTimeout(&o)
	s := open(t, o)
	put(t, s, testMail("first"))
	changed := config.Clone()
	changed.Users = []*server.User{{Username: "relay", Password: "word", Permissions: &server.Permissions{
		Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.MSG.>", "$JS.API.DIRECT.>", "RELAY.>"}},
	}}}
	require.NoError(t, srv.ReloadOptions(changed))
	_, err = s.Next(soon(t), "b.example", 0, 1, 1)
	require.ErrorIs(t, err, nats.ErrPermissionViolation)
	_, err = s.Put(soon(t), testMail("second"), store.Limits{})
	require.ErrorIs(t, err, nats.ErrPermissionViolation)
	require.NoError(t, s.Close())
}

// A connection that the servers refuse for good is mended by opening. One that is only
// made anew isn't closed.
func TestRefusedConnection(t *testing.T) {
	t.Parallel()
	s := openTest(t, longTimeout)
	put(t, s, testMail("first"))
	require.NoError(t, s.engine.conn.ForceReconnect())
	put(t, s, testMail("second"))
	require.NoError(t, s.Failure())
	s.engine.conn.Close() // as the client does
	requireFailed(t, s, nats.ErrConnectionClosed)
	for call, err := range calls(t, s) {
		assert.ErrorIs(t, err, store.ErrReopen, call)
	}
}

// A Wait that goes on while the stream is deleted ends, so that Next says why.
func TestWaitEndsWithTheStream(t *testing.T) {
	t.Parallel()
	s := openTest(t, longTimeout)
	ended := make(chan error, 1)
	go func() { ended <- s.Wait(soon(t), "b.example", 0) }()
	time.Sleep(100 * time.Millisecond) // it waits, or finds out at once
	require.NoError(t, s.engine.js.DeleteStream(t.Context(), "RELAY"))
	require.NotErrorIs(t, <-ended, context.DeadlineExceeded)
	_, err := s.Next(soon(t), "b.example", 0, 1, 1)
	require.ErrorIs(t, err, store.ErrReopen)
}
