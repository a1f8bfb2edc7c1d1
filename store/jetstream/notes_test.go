package jetstream

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/store"
)

// A batch of a process that is gone can't bring back an old note.
func TestLateNotes(t *testing.T) {
	t.Parallel()
	srv := startServer(t, nil)
	gone, s := open(t, testOptions(srv)), open(t, testOptions(srv))
	defer func() { require.NoError(t, s.Close()) }()
	defer func() { require.NoError(t, gone.Close()) }()
	set := func(value string) []store.Note { return []store.Note{{Key: "key", Value: []byte(value)}} }
	require.NoError(t, gone.SetNotes(t.Context(), set("first")))
	late, _, err := gone.writer.prepare([]*job{newJob(t, func(b *batch) error { return b.setNotes(set("late")) })}, careful)
	require.NoError(t, err)
	require.NoError(t, s.SetNotes(t.Context(), set("second")))
	_, err = gone.engine.publish(late.messages(), false)
	require.Equal(t, conflict, verdictOn(err))
	notes, err := s.Notes(t.Context(), "", "", 10)
	require.NoError(t, err)
	require.Equal(t, set("second"), notes)
}

// A caller that sets notes needn't wait until nobody puts mail.
func TestNotesWhileOthersPut(t *testing.T) {
	t.Parallel()
	srv := startServer(t, nil)
	s, other := open(t, testOptions(srv)), open(t, testOptions(srv))
	defer func() { require.NoError(t, s.Close()) }()
	defer func() { require.NoError(t, other.Close()) }()
	put(t, other, testMail("first"))
	set := func(b *batch) error { return b.setNotes([]store.Note{{Key: "key", Value: []byte("value")}}) }
	notes, _, err := s.writer.prepare([]*job{newJob(t, set)}, careful)
	require.NoError(t, err)
	put(t, other, testMail("second"))
	_, err = s.engine.publish(notes.messages(), false)
	require.NoError(t, err)
	got, err := other.Notes(t.Context(), "", "", 10)
	require.NoError(t, err)
	require.Equal(t, []store.Note{{Key: "key", Value: []byte("value")}}, got)
}

// One note is read without asking for the keys of all, whether it is there or not.
func TestOneNote(t *testing.T) {
	t.Parallel()
	srv := startServer(t, nil)
	s := open(t, testOptions(srv))
	defer func() { require.NoError(t, s.Close()) }()
	require.NoError(t, s.SetNotes(t.Context(), []store.Note{{Key: "key", Value: []byte("value")}, {Key: "key/longer", Value: []byte("x")}}))
	spy, err := nats.Connect(srv.ClientURL())
	require.NoError(t, err)
	defer spy.Close()
	listings, err := spy.SubscribeSync("$JS.API.STREAM.INFO.>")
	require.NoError(t, err)
	require.NoError(t, spy.Flush())
	value, err := notebook.Read(t.Context(), s, "key")
	require.NoError(t, err)
	require.Equal(t, "value", string(value))
	value, err = notebook.Read(t.Context(), s, "ke")
	require.NoError(t, err)
	require.Nil(t, value)
	require.NoError(t, spy.Flush())
	_, err = listings.NextMsg(50 * time.Millisecond)
	require.ErrorIs(t, err, nats.ErrTimeout)
}
