package admin_test

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/activity"
	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

var quiet = slog.New(slog.DiscardHandler)

const inviteKey = "a key for invites, of the tests"

// A rig is a store with a Desk, and a Client of it on a Unix socket.
type rig struct {
	*testing.T
	store  store.Store
	desk   *admin.Desk
	client *admin.Client

	blocklist *policy.Blocklist
	lately    *activity.Log
}

func newRig(t *testing.T, s store.Store) *rig {
	t.Helper()
	r := &rig{T: t, store: s, lately: activity.New(activity.Options{Waiting: func() int { return 3 }, MaxWaiting: 1000})}
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	var err error
	r.blocklist, err = policy.NewBlocklist(t.Context(), s)
	require.NoError(t, err)
	r.desk, err = admin.New(admin.Config{
		Store: s, ServerName: "relay.example", Version: "v1", Blocklist: r.blocklist, InviteKey: []byte(inviteKey), Activity: r.lately, Logger: quiet,
	})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "s")
	listener, err := admin.ListenUnix(path)
	require.NoError(t, err)
	serve(t, listener, r.desk.Handler())
	r.client = newClient(t, "unix:"+path, "")
	return r
}

func serve(t *testing.T, listener net.Listener, handler http.Handler) {
	t.Helper()
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		_ = server.Serve(listener) // it ends by Close
		close(done)
	}()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		<-done
	})
}

func newClient(t *testing.T, address, token string) *admin.Client {
	t.Helper()
	client, err := admin.NewClient(address, token)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

// each runs a test with the Desk and with the Client, each with a store of its own.
func each(t *testing.T, run func(r *rig, o admin.Operator)) {
	t.Run("desk", func(t *testing.T) {
		r := newRig(t, memory.New(memory.Options{}))
		run(r, r.desk)
	})
	t.Run("client", func(t *testing.T) {
		r := newRig(t, memory.New(memory.Options{}))
		run(r, r.client)
	})
}

// mailSize is the Size of mail that put puts.
const mailSize = 100

var made int

// put puts n mails and returns their transaction IDs.
func (r *rig) put(origin, destination spec.ServerName, n int, lifetime time.Duration) (ids []gomatrixserverlib.TransactionID) {
	r.Helper()
	for range n {
		made++
		mail := store.Mail{
			Origin: origin, Destination: destination, TransactionID: gomatrixserverlib.TransactionID(fmt.Sprint("t", made)),
			Body: fmt.Appendf(nil, "%090d", made), Proof: []byte("the proof."), Lifetime: lifetime,
			Digest: store.Digest(fmt.Appendf(nil, "%032d", made)),
		}
		stored, err := r.store.Put(r.Context(), mail, store.Limits{})
		require.NoError(r, err)
		require.True(r, stored)
		ids = append(ids, mail.TransactionID)
	}
	return ids
}

// left returns the transaction IDs in a mailbox.
func (r *rig) left(o admin.Operator, mailbox spec.ServerName) (ids []gomatrixserverlib.TransactionID) {
	r.Helper()
	for after := int64(0); ; {
		page, err := o.Entries(r.Context(), admin.EntryQuery{Mailbox: mailbox, After: after, Limit: 7})
		require.NoError(r, err)
		require.LessOrEqual(r, len(page), 7)
		if len(page) == 0 {
			return ids
		}
		for _, entry := range page {
			ids, after = append(ids, entry.TransactionID), entry.ID
		}
	}
}

// entries is how many a mailbox has.
func (r *rig) entries(mailbox spec.ServerName) int64 {
	r.Helper()
	usage, err := r.store.Usage(r.Context(), mailbox)
	require.NoError(r, err)
	return usage.Entries
}

// keys returns names of servers whose name is a key, the longest that are usual.
func (r *rig) keys(n int) (names []spec.ServerName) {
	r.Helper()
	for range n {
		public, _, err := ed25519.GenerateKey(nil)
		require.NoError(r, err)
		names = append(names, spec.ServerName(hex.EncodeToString(public)))
	}
	return names
}
