package client_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/store/sqlite"
)

// notedStores are the stores that one process can have for all.
var notedStores = map[string]func(t *testing.T) notedStore{
	"memory": func(*testing.T) notedStore { return memory.New(memory.Options{}) },
	"sqlite": func(t *testing.T) notedStore {
		s, err := sqlite.Open(filepath.Join(t.TempDir(), "all.db"), sqlite.Options{})
		require.NoError(t, err)
		return s
	},
}

// A relay, an Outbox, one that passes on, a Peers and a History of one process live
// in one store, and none sees the others' mail and notes.
func TestOneStoreForAll(t *testing.T) {
	for name, open := range notedStores {
		t.Run(name, func(t *testing.T) {
			kept := open(t)
			defer func() { require.NoError(t, kept.Close()) }()
			for round := range 2 { // opened twice
				useOneStore(t, kept, round)
			}
		})
	}
}

// oneStore is all that a process may have on one store.
type oneStore struct {
	kept     notedStore
	network  *relaytest.Network
	us       *relaytest.Node
	peers    *client.Peers
	history  *client.History
	caller   *client.Caller
	sender   *client.Sender
	outbox   *client.Outbox
	passing  *client.Outbox
	server   *relay.Server
	receiver *client.Receiver
	told     chan client.Event // by outbox
}

func (s *oneStore) open(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	var err error
	s.peers, err = client.OpenPeers(t.Context(), s.kept)
	require.NoError(t, err)
	s.history, err = client.OpenHistory(t.Context(), s.kept, 10)
	require.NoError(t, err)
	s.caller, err = client.NewCaller(client.CallerConfig{Identity: s.us.SigningIdentity, Transport: s.network})
	require.NoError(t, err)
	s.sender, err = client.NewSender(client.SenderConfig{Caller: s.caller, Peers: s.peers, Logger: quiet})
	require.NoError(t, err)
	s.outbox, err = client.OpenOutbox(t.Context(), client.OutboxConfig{
		Sender: s.sender, Store: s.kept, Logger: quiet, Notify: func(e client.Event) { s.told <- e },
		Limits: store.Limits{StoreEntries: 2},
	})
	require.NoError(t, err)
	s.passing, err = client.OpenOutbox(t.Context(), client.OutboxConfig{
		Sender: s.sender, Store: s.kept, Logger: quiet, PassOn: func(to spec.ServerName) bool { return to == "nobody" },
	})
	require.NoError(t, err)
	s.server, err = relay.New(relay.Config{
		ServerName: s.us.ServerName, Store: s.kept, Logger: quiet, MaxStoreEntries: 4, Stored: s.passing.Stored,
	})
	require.NoError(t, err)
	s.receiver, err = client.NewReceiver(client.ReceiverConfig{
		Caller: s.caller, Peers: s.peers, History: s.history, Logger: quiet, Handle: func(context.Context, client.Received) error { return nil },
	})
	require.NoError(t, err)
}

func (s *oneStore) close(t *testing.T) {
	require.NoError(t, s.server.Close())
	require.NoError(t, s.passing.Close())
	require.NoError(t, s.outbox.Close())
	require.NoError(t, s.sender.Close())
}

func useOneStore(t *testing.T, kept notedStore, round int) {
	s := &oneStore{kept: kept, network: relaytest.NewNetwork(), us: relaytest.NewNode("us"), told: make(chan client.Event, 10)}
	s.open(t)
	defer s.close(t)
	s.network.Set(b.ServerName, answers(400, `{"errcode":"M_BAD_JSON","error":"not yours"}`))
	s.network.Set(s.us.ServerName, relaytest.Host{Handler: s.server})
	stranger := relaytest.NewNode("stranger")
	theirs, err := client.NewCaller(client.CallerConfig{Identity: stranger.SigningIdentity, Transport: s.network})
	require.NoError(t, err)
	for i := range 2 {
		made, err := client.NewTransaction(stranger.Transaction(b.ServerName, fmt.Sprint(round, i), 1, 100))
		require.NoError(t, err)
		require.NoError(t, theirs.Send(t.Context(), s.us.ServerName, made))
	}
	body := fmt.Appendf(nil, `{"pdus":[{"n":%d}]}`, round)
	handled, err := s.receiver.Direct(t.Context(), stranger.ServerName, "1", body, func(context.Context) error { return nil })
	require.NoError(t, err)
	require.True(t, handled)
	for i := range 3 { // B's word on our mail is of no matter to the stranger's
		id := s.enqueue(t, b.ServerName, fmt.Sprint(round, i))
		e := <-s.told
		require.Equal(t, client.ResultRefused, e.Result)
		require.Equal(t, id, e.TransactionID)
	}
	requireStrangersMail(t, kept, 2*(round+1))

	// A server with mail in the Outbox is no destination of the relay, nor does it count.
	require.NoError(t, s.peers.SetOffline(t.Context(), "away", true))
	for i := range 2 {
		s.enqueue(t, "away", fmt.Sprint("away", round, i))
	}
	tooMany, err := client.NewTransaction(s.us.Transaction("away", fmt.Sprint("away", round, 2), 1, 100))
	require.NoError(t, err)
	require.ErrorIs(t, s.outbox.Enqueue(t.Context(), tooMany), store.ErrFull)
	requireStrangersMail(t, kept, 2*(round+1))
	require.Zero(t, s.network.Asked("nobody"))
	s.network.Set("away", takes)
	s.outbox.Seen("away")
	for range 2 {
		require.Equal(t, client.ResultDelivered, (<-s.told).Result)
	}
}

func (s *oneStore) enqueue(t *testing.T, to spec.ServerName, id string) gomatrixserverlib.TransactionID {
	made, err := client.NewTransaction(s.us.Transaction(to, id, 1, 100))
	require.NoError(t, err)
	require.NoError(t, s.outbox.Enqueue(t.Context(), made))
	return made.ID
}

// requireStrangersMail checks that the servers' half of a store holds so much for
// b, and nothing else.
func requireStrangersMail(t *testing.T, kept store.Store, want int) {
	t.Helper()
	names, err := kept.Destinations(t.Context(), "", 10)
	require.NoError(t, err)
	require.Equal(t, []spec.ServerName{b.ServerName}, names)
	for _, half := range []spec.ServerName{"", b.ServerName} {
		usage, err := kept.Usage(t.Context(), half)
		require.NoError(t, err)
		require.EqualValues(t, want, usage.Entries)
	}
	entries, err := kept.Next(t.Context(), b.ServerName, 0, 10, 1<<20)
	require.NoError(t, err)
	require.Len(t, entries, want)
}
