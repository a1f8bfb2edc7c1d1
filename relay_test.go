package relay_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/store"
)

// Deployed nodes, with their own client.

func TestDeployedNodes(t *testing.T) {
	for name, change := range map[string]func(*relay.Config){
		"memory": nil,
		"sqlite": func(c *relay.Config) { c.Store, c.DatabasePath = nil, filepath.Join(t.TempDir(), "relay.db") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, change)
			require.Empty(t, r.fetch(r.b))
			var sent []gomatrixserverlib.Transaction
			for i := range 5 {
				transaction := r.a.Transaction(r.b.ServerName, fmt.Sprint(i), i, 1500)
				transaction.EDUs = []gomatrixserverlib.EDU{{Type: "m.typing", Origin: string(r.a.ServerName), Content: spec.RawJSON(`{"typing":true}`)}}
				require.NoError(t, r.send(r.a, transaction))
				sent = append(sent, transaction)
			}
			require.NoError(t, r.send(r.c, r.c.Transaction(r.a.ServerName, "0", 1, 100)))

			got := r.fetch(r.b)
			require.Len(t, got, len(sent))
			for i := range sent {
				requireSamePDUs(t, sent[i], got[i].Transaction)
				require.Equal(t, sent[i].Origin, got[i].Transaction.Origin)
				require.Equal(t, sent[i].OriginServerTS, got[i].Transaction.OriginServerTS)
				require.Equal(t, sent[i].EDUs, got[i].Transaction.EDUs)
			}
			require.Empty(t, r.fetch(r.b), "everything was acknowledged")
			require.Len(t, r.fetch(r.a), 1)
		})
	}
}

// A node that stops before it asks again gets the same entry again.
func TestUnacknowledgedComesAgain(t *testing.T) {
	r := newRig(t, nil)
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "1", 1, 100)))
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "2", 1, 100)))
	first := r.peek(r.b, 0)
	require.Equal(t, first, r.peek(r.b, 0))
	second := r.peek(r.b, first.EntryID)
	require.Greater(t, second.EntryID, first.EntryID)
	require.True(t, second.EntriesQueued, "true with the last one too")
	require.Equal(t, second, r.peek(r.b, 0))
	require.False(t, r.peek(r.b, second.EntryID).EntriesQueued)
}

// Deployed nodes can run two syncs of one relay at once.
func TestTwoSyncsAtOnce(t *testing.T) {
	r := newRig(t, nil)
	const count = 30
	for i := range count {
		require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, fmt.Sprint(i), 1, 100)))
	}
	var mu sync.Mutex
	seen := make(map[int64]bool)
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			for _, answer := range r.fetch(r.b) {
				mu.Lock()
				seen[answer.EntryID] = true
				mu.Unlock()
			}
		})
	}
	both.Wait()
	require.Len(t, seen, count)
	require.Empty(t, r.fetch(r.b))
}

// The signed body comes back as it was: unknown fields, extras of EDUs, forms of
// numbers.
func TestBodyIsCarriedAsItIs(t *testing.T) {
	r := newRig(t, nil)
	content := `{"edus":[{"content":{"a":1.50},"edu_type":"m.x","extra":[1e3,-0.5e-7]}],"more":{"z":null},` +
		`"origin":"` + string(r.a.ServerName) + `","origin_server_ts":12345678901234567,"pdus":[{"n":10000000000000000000000,"x":"<é>"}]}`
	content = strings.Replace(content, "-0.5e-7", "-1.5e-7", 1) // canonical form has no -0
	status, answer := r.put(r.a, "1", r.b.ServerName, content)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "{}", answer)
	status, answer = r.ask(r.b, r.b.ServerName, `{"entry_id":0}`)
	require.Equal(t, http.StatusOK, status)
	require.Regexp(t, `^\{"transaction":(.*),"entry_id":\d+,"entries_queued":true,"transaction_id":.*\}$`, answer)
	require.Contains(t, answer, `"transaction":`+content+`,"entry_id"`)
}

func TestEmptyAnswerAsDeployed(t *testing.T) {
	r := newRig(t, nil)
	status, answer := r.ask(r.b, r.b.ServerName, `{"entry_id":0}`)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, `{"transaction":{"origin":"","origin_server_ts":0,"pdus":null},"entries_queued":false}`, answer)
}

func TestRetries(t *testing.T) {
	r := newRig(t, nil)
	transaction := r.a.Transaction(r.b.ServerName, "1", 2, 200)
	for range 3 {
		require.NoError(t, r.send(r.a, transaction), "replayed")
	}
	transaction.OriginServerTS += 1000
	require.NoError(t, r.send(r.a, transaction), "built anew, nothing more to say")
	require.Len(t, r.fetch(r.b), 1)
	require.NoError(t, r.send(r.a, transaction), "retried after it was acknowledged")
	require.Empty(t, r.fetch(r.b))

	transaction.OriginServerTS += 1000
	longer := r.a.Transaction(r.b.ServerName, "1", 3, 200)
	require.NoError(t, r.send(r.a, longer), "built anew, with what has come up since")
	got := r.fetch(r.b)
	require.Len(t, got, 1)
	require.Len(t, got[0].Transaction.PDUs, 3)

	require.NoError(t, r.send(r.c, r.c.Transaction(r.b.ServerName, "1", 2, 200)), "another server's ID")
	require.Len(t, r.fetch(r.b), 1)
}

// Any user of a server stands for the server.
func TestMailboxIsTheServers(t *testing.T) {
	r := newRig(t, nil)
	uri := "/_matrix/federation/v1/send_relay/1/%40some%2Fone=else:" + string(r.b.ServerName)
	request, err := r.a.Request(http.MethodPut, relayName, uri, map[string]any{"pdus": []any{}})
	require.NoError(t, err)
	status, body := r.do(request)
	require.Equal(t, http.StatusOK, status, body)
	require.Len(t, r.fetch(r.b), 1)
}

func TestOrigin(t *testing.T) {
	r := newRig(t, nil)
	status, body := r.put(r.a, "1", r.b.ServerName, `{"pdus":[]}`)
	require.Equal(t, http.StatusOK, status, body)
	got := r.fetch(r.b)
	require.Len(t, got, 1)
	require.Equal(t, r.a.ServerName, got[0].Transaction.Origin, "a body without an origin gets the signer's")

	for _, content := range []string{
		`{"origin":"` + string(r.c.ServerName) + `","pdus":[]}`,
		`{"origin":"` + strings.ToUpper(string(r.a.ServerName)) + `","pdus":[]}`,
		`{"origin":"","pdus":[]}`,
		`{"origin":null,"pdus":[]}`,
	} {
		status, body = r.put(r.a, "2", r.b.ServerName, content)
		requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
	}
	status, body = r.put(r.a, "2", r.b.ServerName, `{"Origin":"`+string(r.c.ServerName)+`","pdus":[]}`)
	requireError(t, http.StatusBadRequest, "M_BAD_JSON", status, body)
	require.Empty(t, r.fetch(r.b))
}

// A faultyStore fails where it is told to, and can hold Puts back.
type faultyStore struct {
	store.Store
	put, next, ack error
	entered        chan struct{} // gets a token when a Put begins
	hold           chan struct{} // a Put waits for it to be closed
}

func (f *faultyStore) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	if f.entered != nil {
		f.entered <- struct{}{}
		<-f.hold
	}
	if f.put != nil {
		return false, f.put
	}
	return f.Store.Put(ctx, mail, limits)
}

func (f *faultyStore) Next(ctx context.Context, destination spec.ServerName, after int64, entries int, bytes int64) ([]store.Entry, error) {
	if f.next != nil {
		return nil, f.next
	}
	return f.Store.Next(ctx, destination, after, entries, bytes)
}

func (f *faultyStore) Ack(ctx context.Context, destination spec.ServerName, id int64) (int, error) {
	if f.ack != nil {
		return 0, f.ack
	}
	return f.Store.Ack(ctx, destination, id)
}

// Close waits for a request that is being stored, however long that takes.
func TestCloseDrains(t *testing.T) {
	faulty := &faultyStore{}
	hold := func(c *relay.Config) {
		faulty.entered, faulty.hold = make(chan struct{}, 1), make(chan struct{})
		faulty.Store = c.Store
		c.Store = faulty
	}
	quietly(t, hold, func(q *quiet) {
		var all, closing sync.WaitGroup
		all.Go(func() { q.put(q.b, "1") })
		<-faulty.entered
		closed := make(chan struct{})
		closing.Go(func() { require.NoError(q, q.server.Close()) })
		go func() { closing.Wait(); close(closed) }()
		time.Sleep(time.Hour)
		early := false
		select {
		case <-closed:
			early = true
		default:
		}
		all.Go(func() { require.NoError(q, q.server.Close()) }) // waits for the first, at a lock
		close(faulty.hold)
		<-closed
		all.Wait()
		require.False(q, early, "Close waits for the request under way")
		late := q.ask(q.b, 0, "")
		requireError(q, http.StatusServiceUnavailable, "M_UNKNOWN", late.answer.Code, late.answer.Body.String())
		usage, err := faulty.Usage(context.Background(), q.b.ServerName)
		require.NoError(q, err, "the embedder's store stays open")
		require.EqualValues(q, 1, usage.Entries)
	})
}
