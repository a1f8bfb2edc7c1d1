package client_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// New transactions of the same content aren't dropped, whatever way they come.
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
		caller, err := client.New(client.Config{Identity: a.SigningIdentity, Transport: b.net})
		require.NoError(t, err)
		body = []byte(`{"edus":[{"content":{"typing":true},"edu_type":"m.typing"}],"origin":"` + string(a.ServerName) + `","pdus":[]}`)
		for i := range 40 {
			_, err := b.receiver.Direct(b.Context(), a.ServerName, gomatrixserverlib.TransactionID(fmt.Sprint(i)), body, func(context.Context) error { return nil })
			require.NoError(t, err)
		}
		require.NoError(t, caller.Send(b.Context(), r1, client.Transaction{ID: "new", Destination: nodeB, Body: body}))
		for _, d := range b.receiver.Sync(b.Context()) {
			if d.Relay == r1 {
				require.Equal(t, 1, d.Handled, "dropped %d", d.Dropped)
			}
		}
		require.NoError(t, server.Close())
	})
}

// A note that can't be read doesn't keep a node from its mail.
func TestSeenDamagedNotes(t *testing.T) {
	notes := memory.New(memory.Options{})
	for key, value := range map[string]string{"zz": "{}", "00": "{}", "": "{}", "00112233445566778899aabbccddeeff": "{", "10112233445566778899aabbccddeeff": `{"n":"x"}`} {
		require.NoError(t, notes.SetNotes(t.Context(), []store.Note{{Key: "seen/" + key, Value: []byte(value)}}))
	}
	_, err := client.OpenSeen(t.Context(), notes, 0)
	require.NoError(t, err)
	require.NoError(t, notes.Close())
}
