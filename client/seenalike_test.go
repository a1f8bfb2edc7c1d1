package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// New transactions of the same content aren't dropped, on any way that they come.
func TestSeenManyAlike(t *testing.T) {
	inInbox(t, func(b *inbox) {
		body := []byte(`{"edus":[{"content":{"typing":true},"edu_type":"m.typing"}],"origin":"a","pdus":[]}`)
		handled := 0
		for i := range 40 {
			ok, err := b.receiver.Direct(b.Context(), "a", gomatrixserverlib.TransactionID(fmt.Sprint(i)), body, func(context.Context) error { return nil })
			require.NoError(t, err)
			if ok {
				handled++
			}
		}
		require.Equal(t, 40, handled)
		server := b.relay(r1, asIs)
		caller, err := client.NewCaller(client.CallerConfig{Identity: a.SigningIdentity, Transport: b.net})
		require.NoError(t, err)
		body = []byte(`{"edus":[{"content":{"typing":true},"edu_type":"m.typing"}],"origin":"` + string(a.ServerName) + `","pdus":[]}`)
		for i := range 40 {
			_, err := b.receiver.Direct(b.Context(), a.ServerName, gomatrixserverlib.TransactionID(fmt.Sprint(i)), body, func(context.Context) error { return nil })
			require.NoError(t, err)
		}
		require.NoError(t, caller.Send(b.Context(), r1, client.Transaction{ID: "new", Destination: nodeB, Body: body}))
		for _, d := range b.receiver.Sync(b.Context()) {
			if d.Relay == r1 {
				require.Equal(t, 1, d.Handled, "dropped %d", d.Copies)
			}
		}
		require.NoError(t, server.Close())
	})
}

// reopen starts b anew with its notes.
func (b *inbox) reopen() {
	b.Helper()
	history, err := client.OpenHistory(b.Context(), b.mail, 0)
	require.NoError(b, err)
	b.start(history)
}

// direct says whether a transaction that comes directly is handled.
func (b *inbox) direct(id, body string) (handled bool) {
	b.Helper()
	handled, err := b.receiver.Direct(b.Context(), "a", gomatrixserverlib.TransactionID(id), []byte(body), func(context.Context) error { return nil })
	require.NoError(b, err)
	return handled
}

// A transaction that was handled, and couldn't be written down, is when it comes again.
func TestSeenWritesAgain(t *testing.T) {
	inInbox(t, func(b *inbox) {
		kept := memory.New(memory.Options{})
		defer func() { require.NoError(t, kept.Close()) }()
		broken := newFaulty(kept, 100, "SetNotes")
		open := func() {
			history, err := client.OpenHistory(b.Context(), broken, 0)
			require.NoError(t, err)
			b.start(history)
		}
		open()
		handled := 0
		direct := func() error {
			_, err := b.receiver.Direct(b.Context(), "a", "1", []byte(`{"pdus":[]}`), func(context.Context) error {
				handled++
				return nil
			})
			return err
		}
		for range 2 {
			require.ErrorIs(t, direct(), errFault)
			require.Equal(t, 1, handled)
		}
		broken.percent.Store(0)
		require.NoError(t, direct())
		broken.percent.Store(100)
		require.NoError(t, direct(), "it is written down")
		open()
		require.NoError(t, direct())
		require.Equal(t, 1, handled)
	})
}

// Of transactions that are alike, the last 32 IDs are remembered.
func TestSeenRemembersIDs(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.relay(r1)
		b.reopen()
		const most = 32
		direct := func(i int) bool { return b.direct(fmt.Sprint(i), `{"edus":[{"edu_type":"m.typing"}],"pdus":[]}`) }
		for i := range most + 1 {
			require.True(t, direct(i))
		}
		b.reopen()
		for i := range most {
			require.False(t, direct(i+1))
		}
		require.True(t, direct(0), "it was forgotten")
		require.True(t, direct(1), "it was forgotten for 0")
		require.False(t, direct(most))
		notes, err := b.mail.Notes(b.Context(), "seen/", "", 10)
		require.NoError(t, err)
		require.Len(t, notes, 1)
		var note struct {
			IDs []uint64 `json:"i"`
		}
		require.NoError(t, json.Unmarshal(notes[0].Value, &note))
		require.Len(t, note.IDs, most)
	})
}

// Notes that can't be read keep a node neither from its mail nor from the notes
// that can be read.
func TestSeenDamagedNotes(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.relay(r1)
		b.reopen()
		direct := func(i int) bool { return b.direct(fmt.Sprint(i), fmt.Sprintf(`{"pdus":[{"n":%d}]}`, i)) }
		for i := range 20 {
			require.True(t, direct(i))
		}
		good, err := b.mail.Notes(b.Context(), "seen/", "", 100)
		require.NoError(t, err)
		for key, value := range map[string]string{
			"zz": "{}", "00": "{}", "": "{}", "00112233445566778899aabbccddeeff": "{", "10112233445566778899aabbccddeeff": `{"n":"x"}`,
			strings.TrimPrefix(good[7].Key, "seen/"): string(good[7].Value[1:]),
		} {
			require.NoError(t, b.mail.SetNotes(b.Context(), []store.Note{{Key: "seen/" + key, Value: []byte(value)}}))
		}
		for _, again := range []int{1, 0} {
			b.reopen()
			handled := 0
			for i := range 20 {
				if direct(i) {
					handled++
				}
			}
			require.Equal(t, again, handled, "only that whose note is damaged comes again, once")
		}
	})
}
