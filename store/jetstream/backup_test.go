package jetstream

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// A backup is a copy of a stream, as nats stream backup makes it.
type backup struct {
	config, state json.RawMessage
	chunks        [][]byte
}

func ask(tb testing.TB, s *Store, subject string, request any, answer any) {
	tb.Helper()
	data, err := json.Marshal(request)
	require.NoError(tb, err)
	reply, err := s.engine.conn.Request(subject, data, patience)
	require.NoError(tb, err)
	var failed struct{ Error *jetstream.APIError }
	require.NoError(tb, json.Unmarshal(reply.Data, &failed))
	require.Nil(tb, failed.Error)
	require.NoError(tb, json.Unmarshal(reply.Data, answer))
}

// backUp copies a stream, by the connection of any store.
func backUp(tb testing.TB, s *Store, stream string) (b backup) {
	tb.Helper()
	chunks, err := s.engine.conn.SubscribeSync(s.engine.conn.NewInbox())
	require.NoError(tb, err)
	defer func() { require.NoError(tb, chunks.Unsubscribe()) }()
	var answer struct{ Config, State json.RawMessage }
	ask(tb, s, "$JS.API.STREAM.SNAPSHOT."+stream, map[string]string{"deliver_subject": chunks.Subject}, &answer)
	b.config, b.state = answer.Config, answer.State
	for {
		chunk, err := chunks.NextMsg(patience)
		require.NoError(tb, err)
		if len(chunk.Data) == 0 {
			return b
		}
		b.chunks = append(b.chunks, chunk.Data)
		if chunk.Reply != "" { // the server wants to know how far it is
			require.NoError(tb, chunk.Respond(nil))
		}
	}
}

// restore puts the copy in the place of the stream.
func (b backup) restore(tb testing.TB, s *Store, stream string) {
	tb.Helper()
	require.NoError(tb, s.engine.js.DeleteStream(tb.Context(), stream))
	var to struct {
		Subject string `json:"deliver_subject"`
	}
	ask(tb, s, "$JS.API.STREAM.RESTORE."+stream, map[string]json.RawMessage{"config": b.config, "state": b.state}, &to)
	var reply *nats.Msg
	for _, chunk := range append(b.chunks, nil) {
		require.Eventually(tb, func() (ok bool) { // not all servers know at once who takes it
			var err error
			reply, err = s.engine.conn.Request(to.Subject, chunk, patience)
			return !errors.Is(err, nats.ErrNoResponders)
		}, patience, time.Millisecond)
		require.NotNil(tb, reply)
	}
	var failed struct{ Error *jetstream.APIError }
	require.NoError(tb, json.Unmarshal(reply.Data, &failed))
	require.Nil(tb, failed.Error)
	require.Eventually(tb, func() bool { _, err := s.engine.js.Stream(tb.Context(), stream); return err == nil }, patience, time.Millisecond)
}

// A stream that is set back while a process runs gives no ID again that it gave
// since, and the process serves on.
func TestSetBackWhileOpen(t *testing.T) {
	t.Parallel()
	srv := startServer(t, nil)
	admin, s := open(t, testOptions(srv)), open(t, testOptions(srv))
	defer func() { require.NoError(t, admin.Close()) }()
	defer func() { require.NoError(t, s.Close()) }()
	put(t, s, testMail("first"))
	before := backUp(t, admin, "RELAY")
	for _, id := range []string{"second", "third", "fourth"} {
		put(t, s, testMail(id))
	}
	old := next(t, s, "b.example")
	before.restore(t, admin, "RELAY")
	put(t, s, testMail("new"))
	entries := next(t, s, "b.example")
	require.Len(t, entries, 2)
	require.Equal(t, old[0].ID, entries[0].ID)
	require.Greater(t, entries[1].ID, old[len(old)-1].ID)
	removed, err := s.Ack(t.Context(), "b.example", old[len(old)-1].ID) // which nobody has now
	require.NoError(t, err)
	require.Zero(t, removed)
}
