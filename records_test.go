package relay_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// recordOf makes a node's record.
func recordOf(t testing.TB, node *relaytest.Node, seq uint64, relays ...spec.ServerName) wire.RelayRecord {
	t.Helper()
	draft := wire.RelayRecord{Seq: seq, Expires: 1 << 50}
	for _, relay := range relays {
		draft.Relays = append(draft.Relays, wire.RecordRelay{Name: relay})
	}
	record, err := wire.SignRelayRecord(draft, node.SigningIdentity)
	require.NoError(t, err)
	return record
}

// record makes a signed request for the record of a server, or with one.
func (r *rig) record(method string, signer *relaytest.Node, server spec.ServerName, content any) (status int, body string) {
	r.Helper()
	request, err := signer.Request(method, relayName, wire.RelaysURI(server), content)
	require.NoError(r, err)
	return r.do(request)
}

func (r *rig) bring(signer *relaytest.Node, record wire.RelayRecord) (status int, body string) {
	r.Helper()
	return r.record(http.MethodPut, signer, record.Server, json.RawMessage(record.JSON()))
}

// requireRecord: the relay gives out that record.
func (r *rig) requireRecord(want wire.RelayRecord) {
	r.Helper()
	status, body := r.record(http.MethodGet, r.c, want.Server, nil)
	require.Equal(r, http.StatusOK, status, body)
	got, err := wire.ReadRelayRecord([]byte(body))
	require.NoError(r, err)
	require.Equal(r, want, got)
}

// TestRecordsAreKept: the relay gives out the newest record that anybody has brought, also
// after a restart, and tells senders its number.
func TestRecordsAreKept(t *testing.T) {
	r := newRig(t, nil)
	first, second, third := recordOf(t, r.b, 5, relayName), recordOf(t, r.b, 7, "other.example"), recordOf(t, r.b, 6, relayName)
	status, body := r.record(http.MethodGet, r.a, r.b.ServerName, nil)
	requireError(t, http.StatusNotFound, "M_NOT_FOUND", status, body)
	require.Equal(t, `{}`, r.sent(r.b.ServerName))

	for _, record := range []wire.RelayRecord{first, first, second, second} {
		status, body = r.bring(r.c, record)
		require.Equal(t, http.StatusOK, status, body)
		r.requireRecord(record)
		require.JSONEq(t, fmt.Sprintf(`{"relays_seq":%d}`, record.Seq), r.sent(r.b.ServerName))
	}
	for _, older := range []wire.RelayRecord{first, third} {
		status, body = r.bring(r.b, older)
		requireError(t, http.StatusConflict, "M_UNKNOWN", status, body)
		var newer struct{ Record json.RawMessage }
		require.NoError(t, json.Unmarshal([]byte(body), &newer))
		require.JSONEq(t, string(second.JSON()), string(newer.Record))
	}
	r.requireRecord(second)

	again := newRig(t, func(c *relay.Config) {
		c.Store = kept{r.store}
	})
	again.requireRecord(second)
	require.NoError(t, again.send(again.a, again.a.Transaction(again.b.ServerName, "1", 1, 10)), "a deployed node passes it over")
}

// kept is a store that somebody else closes.
type kept struct{ store.Store }

func (kept) Close() error { return nil }

func (k kept) SetNotes(ctx context.Context, changes []store.Note) error {
	return k.Store.(store.Notes).SetNotes(ctx, changes)
}

func (k kept) Notes(ctx context.Context, prefix, after string, limit int) ([]store.Note, error) {
	return k.Store.(store.Notes).Notes(ctx, prefix, after, limit)
}

// sent leaves an empty transaction and returns the answer.
func (r *rig) sent(to spec.ServerName) string {
	r.Helper()
	status, body := r.put(r.a, "x", to, `{"pdus":[]}`)
	require.Equal(r, http.StatusOK, status, body)
	return body
}

// TestWrongRecords: a relay takes nothing but the record of the server in the path, which
// that server has signed.
func TestWrongRecords(t *testing.T) {
	r := newRig(t, nil)
	good := recordOf(t, r.b, 5, relayName)
	forged := bytes.Replace(good.JSON(), []byte(`"seq":5`), []byte(`"seq":6`), 1)
	for name, c := range map[string]struct {
		server  spec.ServerName
		content string
		status  int
		code    string
	}{
		"forged":          {r.b.ServerName, string(forged), http.StatusForbidden, "M_FORBIDDEN"},
		"another's":       {r.a.ServerName, string(good.JSON()), http.StatusBadRequest, "M_INVALID_PARAM"},
		"no record":       {r.b.ServerName, `{"relays":[]}`, http.StatusBadRequest, "M_BAD_JSON"},
		"a field more":    {r.b.ServerName, strings.Replace(string(good.JSON()), "{", `{"x":1,`, 1), http.StatusBadRequest, "M_BAD_JSON"},
		"too long":        {r.b.ServerName, `{"x":"` + strings.Repeat("x", wire.MaxRecordBytes) + `"}`, http.StatusRequestEntityTooLarge, "M_TOO_LARGE"},
		"of no server":    {"no server", `{}`, http.StatusBadRequest, "M_INVALID_PARAM"},
		"in a wrong path": {"b.example/x", `{}`, http.StatusBadRequest, "M_INVALID_PARAM"},
	} {
		status, body := r.record(http.MethodPut, r.b, c.server, json.RawMessage(c.content))
		require.Equal(t, c.status, status, "%s: %s", name, body)
		requireError(t, c.status, c.code, status, body)
	}
	stranger := recordOf(t, r.b, 5, "other.example")
	status, body := r.bring(r.b, stranger)
	requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
	status, body = r.record(http.MethodPost, r.b, r.b.ServerName, nil)
	requireError(t, http.StatusMethodNotAllowed, "M_UNRECOGNIZED", status, body)
	for _, uri := range []string{wire.Unstable + "relays", wire.Unstable + "relays/a/b"} {
		request, err := r.b.Request(http.MethodGet, relayName, uri, nil)
		require.NoError(t, err)
		status, body = r.do(request)
		requireError(t, http.StatusNotFound, "M_UNRECOGNIZED", status, body)
	}
	status, body = r.record(http.MethodGet, r.b, r.b.ServerName, nil)
	requireError(t, http.StatusNotFound, "M_NOT_FOUND", status, body)
	unsigned, err := http.NewRequest(http.MethodGet, "matrix://"+relayName+wire.RelaysURI(r.b.ServerName), nil)
	require.NoError(t, err)
	status, body = r.do(unsigned)
	requireError(t, http.StatusUnauthorized, "M_UNAUTHORIZED", status, body)
}

// TestRecordsByMode: a relay keeps records of the servers that it acts for, and goes on
// with those that it has, also where the owners of mailboxes have a say.
func TestRecordsByMode(t *testing.T) {
	for _, owned := range []bool{false, true} {
		testRecordsByMode(t, owned)
	}
}

func testRecordsByMode(t *testing.T, owned bool) {
	closed := policy.NewClosed()
	for name, mode := range map[string]struct {
		policy func(store.Store) (policy.Policy, error)
		join   func(r *rig)
	}{
		"closed": {
			func(store.Store) (policy.Policy, error) { return closed, nil },
			func(r *rig) { closed.Set([]spec.ServerName{r.b.ServerName}) },
		},
		"open": {
			func(s store.Store) (policy.Policy, error) { return policy.NewOpen(policy.OpenConfig{Store: s}) },
			func(r *rig) { r.fetch(r.b) },
		},
		"invite": {
			func(s store.Store) (policy.Policy, error) {
				return policy.NewInvite(policy.InviteConfig{Store: s, ServerName: relayName, Key: make([]byte, policy.MinInviteKey)})
			},
			func(r *rig) {
				text, err := policy.NewInviteText(make([]byte, policy.MinInviteKey), 1, time.Now())
				require.NoError(t, err)
				made, err := wire.NewClaim(text, relayName, r.b.ServerName)
				require.NoError(t, err)
				content, err := json.Marshal(made)
				require.NoError(t, err)
				status, body := r.claim(r.b, string(content))
				require.Equal(t, http.StatusOK, status, body)
			},
		},
	} {
		r := newRig(t, func(c *relay.Config) {
			part, err := mode.policy(c.Store)
			require.NoError(t, err)
			if owned {
				part, err = policy.NewOwners(policy.OwnersConfig{Store: c.Store, Mode: part})
				require.NoError(t, err)
			}
			c.Policy = policy.All(policy.NewLimits(policy.LimitsConfig{}), part)
		})
		named, elsewhere := recordOf(t, r.b, 5, relayName), recordOf(t, r.b, 6, "other.example")
		status, body := r.bring(r.b, named)
		requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
		mode.join(r)
		status, body = r.bring(r.c, named)
		require.Equal(t, http.StatusOK, status, "%s: %s", name, body)
		closed.Set(nil)
		status, body = r.bring(r.c, elsewhere)
		require.Equal(t, http.StatusOK, status, "%s: %s", name, body)
		r.requireRecord(elsewhere)
	}
}

// TestNoRecords: a relay that keeps none doesn't know the path, and doesn't say so.
func TestNoRecords(t *testing.T) {
	for name, change := range map[string]func(*relay.Config){
		"switched off":          func(c *relay.Config) { c.MaxRecords = -1 },
		"a store without notes": func(c *relay.Config) { c.Store = bare{c.Store} },
	} {
		r := newRig(t, change)
		status, body := r.bring(r.b, recordOf(t, r.b, 5, relayName))
		requireError(t, http.StatusNotFound, "M_UNRECOGNIZED", status, body)
		status, body = r.record(http.MethodGet, r.b, r.b.ServerName, nil)
		requireError(t, http.StatusNotFound, "M_UNRECOGNIZED", status, body)
		require.Equal(t, `{}`, r.sent(r.b.ServerName), name)
		_, _, info := r.info(http.MethodGet)
		require.NotContains(t, info, wire.RecordsExtension)
	}
}

// bare hides the abilities of a store.
type bare struct{ store.Store }

// TestRecordsAreBounded: there is room for so many; one that hasn't changed for 180 days
// is no longer given out, and makes room.
func TestRecordsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mail := memory.New(memory.Options{})
		server, err := relay.New(relay.Config{ServerName: relayName, Store: mail, MaxRecords: 2})
		require.NoError(t, err)
		defer func() {
			require.NoError(t, server.Close())
			require.NoError(t, mail.Close())
		}()
		ask := func(method string, node *relaytest.Node, content any) (int, string) {
			request, err := node.Request(method, relayName, wire.RelaysURI(node.ServerName), content)
			require.NoError(t, err)
			w := httptest.NewRecorder()
			request.RequestURI = request.URL.RequestURI()
			server.ServeHTTP(w, request)
			return w.Code, w.Body.String()
		}
		bring := func(node *relaytest.Node, seq uint64) (int, string) {
			record := recordOf(t, node, seq, relayName)
			return ask(http.MethodPut, node, json.RawMessage(record.JSON()))
		}
		a, b, c := relaytest.NewNode("a"), relaytest.NewNode("b"), relaytest.NewNode("c")
		for _, node := range []*relaytest.Node{a, b} {
			status, body := bring(node, 1)
			require.Equal(t, http.StatusOK, status, body)
		}
		for range 2 {
			status, body := bring(c, 1)
			requireError(t, http.StatusInsufficientStorage, "M_RESOURCE_LIMIT_EXCEEDED", status, body)
		}
		time.Sleep(170 * 24 * time.Hour)
		status, body := bring(b, 2) // which it has
		require.Equal(t, http.StatusOK, status, body)
		time.Sleep(11 * 24 * time.Hour)
		status, body = ask(http.MethodGet, a, nil)
		requireError(t, http.StatusNotFound, "M_NOT_FOUND", status, body)
		status, body = ask(http.MethodGet, b, nil)
		require.Equal(t, http.StatusOK, status, body)
		status, body = bring(c, 1)
		require.Equal(t, http.StatusOK, status, body)
		status, body = bring(a, 3)
		requireError(t, http.StatusInsufficientStorage, "M_RESOURCE_LIMIT_EXCEEDED", status, body)
	})
}

// lookedUpKeys look up the key ed25519:slow of a server only when they are told to.
type lookedUpKeys struct {
	wire.HexKeys
	of            spec.ServerName
	asked, answer chan struct{}
}

func (*lookedUpKeys) KnownKey(spec.ServerName, gomatrixserverlib.KeyID) (ed25519.PublicKey, bool) {
	return nil, false
}

func (k *lookedUpKeys) VerifyJSONs(ctx context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	if requests[0].ServerName == k.of && bytes.Contains(requests[0].Message, []byte("ed25519:slow")) {
		close(k.asked)
		<-k.answer
	}
	return k.HexKeys.VerifyJSONs(ctx, requests)
}

// TestRecordBesideSlowKeys: a record is taken while a key is looked up for another of the
// same server, which anybody may have made up.
func TestRecordBesideSlowKeys(t *testing.T) {
	keys := &lookedUpKeys{asked: make(chan struct{}), answer: make(chan struct{})}
	r := newRig(t, func(c *relay.Config) { c.Keys = keys })
	keys.of = r.b.ServerName
	good := recordOf(t, r.b, 5, relayName)
	text := bytes.Replace(good.JSON(), []byte(r.b.KeyID), []byte("ed25519:slow"), 1)
	slow, err := wire.ReadRelayRecord(bytes.Replace(text, []byte(`"seq":5`), []byte(`"seq":4`), 1))
	require.NoError(t, err)
	status := make(chan int, 1)
	go func() {
		got, _ := r.bring(r.c, slow)
		status <- got
	}()
	<-keys.asked
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	request, err := r.b.Request(http.MethodPut, relayName, wire.RelaysURI(r.b.ServerName), json.RawMessage(good.JSON()))
	require.NoError(t, err)
	response, err := r.network.RoundTrip(request.WithContext(ctx))
	close(keys.answer)
	require.NoError(t, err, "it waits for somebody else's key")
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Equal(t, http.StatusForbidden, <-status)
	r.requireRecord(good)
}
