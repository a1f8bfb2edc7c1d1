package relay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

func init() { logrus.SetOutput(io.Discard) } // fclient logs every refusal

const relayName = "relay.example"

// A rig is a relay on loopback and three nodes that know the way to it.
type rig struct {
	testing.TB
	server  *relay.Server
	store   store.Store
	network *relaytest.Network
	address string
	a, b, c *relaytest.Node
}

func newRig(t testing.TB, change func(*relay.Config)) *rig {
	t.Helper()
	config := relay.Config{
		ServerName: relayName,
		Store:      memory.New(memory.Options{}),
		Logger:     slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&config)
	}
	server, err := relay.New(config)
	require.NoError(t, err)
	web, err := relaytest.NewServer(server)
	require.NoError(t, err)
	r := &rig{
		TB: t, server: server, store: config.Store, address: web.Address,
		a: relaytest.NewNode("a"), b: relaytest.NewNode("b"), c: relaytest.NewNode("c"),
	}
	r.network = relaytest.NewNetwork()
	r.network.Set(relayName, relaytest.Host{Address: r.address})
	t.Cleanup(func() {
		r.network.CloseIdleConnections()
		require.NoError(t, web.Close())
		require.NoError(t, server.Close())
		if config.Store != nil {
			require.NoError(t, config.Store.Close())
		}
	})
	return r
}

// send leaves a transaction as a deployed node does.
func (r *rig) send(from *relaytest.Node, t gomatrixserverlib.Transaction) error {
	_, err := from.Federation(r.network).P2PSendTransactionToRelay(context.Background(), relaytest.User(t.Destination), t, relayName)
	return err
}

// fetch empties the mailbox as a deployed node does.
func (r *rig) fetch(node *relaytest.Node) []fclient.RespGetRelayTransaction {
	r.Helper()
	var all []fclient.RespGetRelayTransaction
	federation, entry := node.Federation(r.network), fclient.RelayEntry{}
	for {
		answer, err := federation.P2PGetTransactionFromRelay(context.Background(), relaytest.User(node.ServerName), entry, relayName)
		require.NoError(r, err)
		if !answer.EntriesQueued {
			require.Equal(r, fclient.RespGetRelayTransaction{}, answer)
			return all
		}
		require.Greater(r, answer.EntryID, entry.EntryID)
		entry.EntryID = answer.EntryID
		all = append(all, answer)
	}
}

// peek asks for the next entry, acknowledging one.
func (r *rig) peek(node *relaytest.Node, acknowledge int64) fclient.RespGetRelayTransaction {
	r.Helper()
	answer, err := node.Federation(r.network).P2PGetTransactionFromRelay(
		context.Background(), relaytest.User(node.ServerName), fclient.RelayEntry{EntryID: acknowledge}, relayName)
	require.NoError(r, err)
	return answer
}

// put makes a signed request with just this content, which fclient puts into
// canonical form.
func (r *rig) put(from *relaytest.Node, id string, to spec.ServerName, content string) (status int, body string) {
	r.Helper()
	request, err := from.Request(http.MethodPut, relayName, "/_matrix/federation/v1/send_relay/"+id+"/@user:"+string(to), json.RawMessage(content))
	require.NoError(r, err)
	return r.do(request)
}

// ask makes a signed request for the mailbox of owner.
func (r *rig) ask(signer *relaytest.Node, owner spec.ServerName, content string) (status int, body string) {
	r.Helper()
	request, err := signer.Request(http.MethodGet, relayName, "/_matrix/federation/v1/relay_txn/@user:"+string(owner), json.RawMessage(content))
	require.NoError(r, err)
	return r.do(request)
}

func (r *rig) do(request *http.Request) (status int, body string) {
	r.Helper()
	response, err := r.network.RoundTrip(request)
	require.NoError(r, err)
	defer func() { require.NoError(r, response.Body.Close()) }()
	read, err := io.ReadAll(response.Body)
	require.NoError(r, err)
	return response.StatusCode, string(read)
}

// requireError checks a Matrix error body.
func requireError(t testing.TB, status int, code string, gotStatus int, gotBody string) {
	t.Helper()
	require.Equal(t, status, gotStatus, gotBody)
	e := wire.ParseError(gotStatus, nil, []byte(gotBody))
	require.EqualValues(t, code, e.Code, gotBody)
	require.NotEmpty(t, e.Message)
}

func requireSamePDUs(t testing.TB, want, got gomatrixserverlib.Transaction) {
	t.Helper()
	require.Equal(t, len(want.PDUs), len(got.PDUs))
	for i := range want.PDUs {
		canonical, err := gomatrixserverlib.CanonicalJSON(want.PDUs[i])
		require.NoError(t, err)
		require.True(t, bytes.Equal(canonical, got.PDUs[i]), "PDU %d", i)
	}
}

// skipIfShort is for tests that move hundreds of megabytes, for which the race detector
// takes minutes.
func skipIfShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it moves too much for -short")
	}
}
