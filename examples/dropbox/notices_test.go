package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store"
)

// TestStoryNotices spoils the story before one of its steps, in each way that
// it promises to notice.
func TestStoryNotices(t *testing.T) {
	for name, test := range map[string]struct {
		before string
		spoil  func(context.Context, *story) error
		want   string
	}{
		"a relay loses its file": {"the relay is back", func(_ context.Context, s *story) error {
			return os.Remove(filepath.Join(s.directory, "relay1.db"))
		}, "the relay is back: the relay process"},
		"a relay loses all its files": {"the relay is back", func(_ context.Context, s *story) error {
			return errors.Join(
				os.Remove(filepath.Join(s.directory, "relay1.db")), os.Remove(filepath.Join(s.directory, "relay1.db-wal")),
				os.Remove(filepath.Join(s.directory, "relay1.db-shm")), os.Remove(filepath.Join(s.directory, "relay1.db-lock")))
		}, "relay1 took 4 transactions and gave 3"},
		"a relay gives what nobody wrote": {"B comes back", leaveMore, "4 transactions were sent, 5 arrived"},
		"another relay is where one was": {"B comes back", func(_ context.Context, s *story) error {
			return s.moveTo(relay1, relay2)
		}, "relay1 answers B with 401"},
		"B forgets what it handled": {"B answers", receiveOtherwise(func(c *client.NodeConfig) {
			c.Receiver.History = client.NewHistory(0)
		}), "alice-1 came to bob directly and could not be handled"},
		"B checks no proofs":         {"B comes back", receiveOtherwise(trustRelays), "its hash is wrong"},
		"B checks no typing notices": {"B comes back", trustVillain, "4 transactions were sent, 6 arrived"},
		"B requires no proofs": {"B comes back", receiveOtherwise(func(c *client.NodeConfig) {
			c.Receiver.RequireProof = false
		}), "4 transactions were sent, 5 arrived"},
		"B isn't told of forgeries": {"B comes back", receiveOtherwise(func(c *client.NodeConfig) {
			c.Receiver.Rejected = nil
		}), "B didn't notice that alice-4 is forged"},
		"the outbox loses its oldest": {"B answers", func(ctx context.Context, s *story) error {
			// Two of them, as it may just be trying the first.
			kept := store.Private("outbox", s.b.ServerName)
			entries, err := s.a.mail.Next(ctx, kept, 0, 2, 1<<20)
			if err != nil {
				return err
			}
			_, err = s.a.mail.Ack(ctx, kept, entries[1].ID)
			return err
		}, "alice-3 came to bob directly (handled: false), and not alice-"},
		"something is left at a relay": {"the end", leaveMore, "B's mailbox at relay2 still has entry"},
		"something is left in the outbox": {"the end", func(ctx context.Context, s *story) error {
			return s.a.Enqueue(ctx, client.Transaction{ID: "more", Destination: "nobody", Body: []byte(`{"pdus":[]}`)})
		}, "1 transactions are left in the outbox of alice"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			err := withStory(io.Discard, func(s *story) error {
				steps := s.steps()
				at := slices.IndexFunc(steps, func(s step) bool { return s.name == test.before })
				spoil := step{"spoiling it", func(ctx context.Context) error { return test.spoil(ctx, s) }}
				return s.tell(ctx, slices.Insert(steps, at, spoil))
			})
			require.ErrorContains(t, err, test.want)
			require.NotContains(t, err.Error(), "spoiling it")
		})
	}
}

// leaveMore leaves a transaction at relay2 that isn't part of the story.
func leaveMore(ctx context.Context, s *story) error {
	return s.a.caller.Send(ctx, relay2, client.Transaction{ID: "more", Destination: s.b.ServerName, Body: []byte(`{"pdus":[]}`)})
}

// receiveOtherwise has B receive in another way than it should.
func receiveOtherwise(change func(*client.NodeConfig)) func(context.Context, *story) error {
	return func(ctx context.Context, s *story) error {
		status, err := s.b.Status(ctx)
		if err := errors.Join(err, s.b.stop()); err != nil {
			return err
		}
		config := s.b.config()
		config.Offline = !status.Online
		change(&config)
		return s.b.run(ctx, config)
	}
}

func trustRelays(c *client.NodeConfig) { c.Keys, c.Receiver.RequireProof = nil, false }

// trustVillain has B trust its relays, of which one has forged nothing but parts
// that have no signature of their own.
func trustVillain(ctx context.Context, s *story) error {
	entries, err := s.villain.Next(ctx, s.b.ServerName, 0, 1, 1)
	if err != nil {
		return err
	}
	if _, err := s.villain.Ack(ctx, s.b.ServerName, entries[0].ID); err != nil {
		return err
	}
	return receiveOtherwise(trustRelays)(ctx, s)
}

// moveTo puts one relay where another is.
func (s *story) moveTo(relay, other spec.ServerName) error {
	s.roads.place(relay, s.relays[other].address)
	return nil
}

// TestInboxNotices spoils the mail that arrived.
func TestInboxNotices(t *testing.T) {
	replace := func(old, new string) func([]delivery) []delivery {
		return func(got []delivery) []delivery {
			got[1].body = json.RawMessage(strings.Replace(string(got[1].body), old, new, 1))
			return got
		}
	}
	for name, test := range map[string]struct {
		spoil func([]delivery) []delivery
		want  string
	}{
		"nothing":           {func(got []delivery) []delivery { return got }, ""},
		"the last missing":  {func(got []delivery) []delivery { return got[:2] }, "3 transactions were sent, 2 arrived"},
		"the first missing": {func(got []delivery) []delivery { return got[1:] }, "missing, twice or in the wrong order"},
		"twice":             {func(got []delivery) []delivery { return slices.Insert(got, 1, got[0]) }, "missing, twice or in the wrong order"},
		"wrong order":       {func(got []delivery) []delivery { got[0], got[1] = got[1], got[0]; return got }, "missing, twice or in the wrong order"},
		"content changed":   {replace("Tsch", "tsch"), "its hash is wrong"},
		"sender changed":    {replace(`"sender":"@alice:`, `"sender":"@malory:`), "its hash is wrong"},
		"signature changed": {replace(`"ed25519:1":"`, `"ed25519:1":"AAAA`), "signature"},
		"EDU changed":       {replace(`"typing":true`, `"typing":false`), "was changed on the way"},
		"not JSON":          {replace(`{`, ``), "invalid character"},
	} {
		t.Run(name, func(t *testing.T) {
			in, sent, got := newDelivery(t)
			var err error
			for _, d := range test.spoil(got) {
				if err = in.take(t.Context(), d.from, d.body); err != nil {
					break
				}
			}
			if err == nil {
				err = in.compare(sent)
			}
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, test.want)
		})
	}
}

// newDelivery returns B's inbox, the mail that A has written and the mail that arrives
// of it.
func newDelivery(t *testing.T) (in *inbox, sent []gomatrixserverlib.Transaction, got []delivery) {
	s := &story{out: io.Discard, directory: t.TempDir()}
	var err error
	for name, n := range map[string]**node{"alice": &s.a, "bob": &s.b} {
		*n, err = s.newNode(t.Context(), name)
		require.NoError(t, err)
	}
	t.Cleanup(func() { require.NoError(t, s.clean()) })
	s.a.inbox.room, err = newRoom(s.a, s.b)
	require.NoError(t, err)
	in = &inbox{room: s.a.inbox.room.asKnownNow()}
	for _, text := range []string{"Are you there?", "Tschüß", "That was all."} {
		_, err := s.a.write(t.Context(), s.b.ServerName, text)
		require.NoError(t, err)
	}
	for _, transaction := range s.a.sent {
		body, err := onTheWire(transaction)
		require.NoError(t, err)
		got = append(got, delivery{s.a.ServerName, body})
	}
	return in, s.a.sent, got
}
