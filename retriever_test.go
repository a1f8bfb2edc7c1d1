package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// askWith makes a signed request with a query.
func (r *rig) askWith(ctx context.Context, node *relaytest.Node, entry int64, query string) (status int, body string) {
	r.Helper()
	uri := wire.RelayTxnURI(relaytest.User(node.ServerName)) + query
	request, err := node.Request(http.MethodGet, relayName, uri, json.RawMessage(fmt.Sprintf(`{"entry_id":%d}`, entry)))
	require.NoError(r, err)
	return r.do(request.WithContext(ctx))
}

// batch returns the entries of an answer to a request with a query.
func (r *rig) batch(node *relaytest.Node, entry int64, query string) []wire.Answer {
	r.Helper()
	status, body := r.askWith(context.Background(), node, entry, query)
	require.Equal(r, http.StatusOK, status, body)
	return entriesOf(r, body)
}

func entriesOf(t testing.TB, body string) []wire.Answer {
	t.Helper()
	answer, err := wire.ReadAnswer([]byte(body))
	require.NoError(t, err)
	if !answer.EntriesQueued {
		return nil
	}
	return append([]wire.Answer{answer}, answer.More...)
}

// fill leaves that many transactions of that size for b and returns the IDs of
// their entries.
func (r *rig) fill(count, size int) (ids []int64) {
	r.Helper()
	for i := range count {
		require.NoError(r, r.send(r.a, r.a.Transaction(r.b.ServerName, fmt.Sprintf("t%d", i), 1, size)))
	}
	entries, err := r.store.Next(context.Background(), r.b.ServerName, 0, count, 1<<40)
	require.NoError(r, err)
	for _, e := range entries {
		ids = append(ids, e.ID)
	}
	require.Len(r, ids, count)
	return ids
}

func idsOf(entries []wire.Answer) (ids []int64) {
	for _, e := range entries {
		ids = append(ids, e.EntryID)
	}
	return ids
}

func TestBatchLimit(t *testing.T) {
	r := newRig(t, nil)
	ids := r.fill(5, 200)
	for _, c := range []struct {
		query string
		want  []int64
	}{
		{"", ids[:1]},
		{"?limit=1", ids[:1]},
		{"?limit=2", ids[:2]},
		{"?limit=5", ids},
		{"?limit=1000000", ids},
		{"?unknown=-1&limit=3", ids[:3]},
		{fmt.Sprintf("?limit=2&after=%d", ids[1]), ids[2:4]},
		{fmt.Sprintf("?limit=9&after=%d", ids[3]), ids[4:]},
		{fmt.Sprintf("?limit=9&after=%d", ids[4]), nil},
		{fmt.Sprintf("?after=%d", ids[2]), ids[3:4]},
		{"?limit=2&after=0", ids[:2]},
		{"?limit=2&after=1", ids[:2]},
		{"?limit=2&after=9223372036854775807", nil},
	} {
		require.Equal(t, c.want, idsOf(r.batch(r.b, 0, c.query)), c.query)
	}
	for i, e := range r.batch(r.b, 0, "?limit=5") {
		require.EqualValues(t, fmt.Sprintf("t%d", i), e.TransactionID)
		proof, err := wire.ReadProof(e.Proof)
		require.NoError(t, err)
		proven, err := proof.Check(context.Background(), relay.HexKeys{}, e.Transaction, r.b.ServerName)
		require.NoError(t, err)
		require.Equal(t, r.a.ServerName, proven.Origin)
		require.Equal(t, e.TransactionID, proven.TransactionID)
	}
	require.Len(t, r.fetch(r.b), 5, "a deployed node gets them one by one")
}

// An answer to a request with limit has the field more, also if that is empty; one
// without doesn't.
func TestMore(t *testing.T) {
	r := newRig(t, nil)
	has := func(query string) bool {
		_, body := r.askWith(context.Background(), r.b, 0, query)
		var fields map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(body), &fields), body)
		return string(fields["more"]) != "" && fields["more"][0] == '['
	}
	for range 3 {
		require.False(t, has(""))
		require.False(t, has("?timeout=1"))
		require.False(t, has("?after=1"))
		require.True(t, has("?limit=1"))
		require.True(t, has("?limit=2"))
		require.True(t, has("?limit=2&timeout=1"))
		require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, fmt.Sprint(len(r.batch(r.b, 0, "?limit=9"))), 1, 100)))
	}
}

// The last of a batch acknowledges all of it, an earlier one those up to it, while
// the next ones are on their way.
func TestBatchAcknowledges(t *testing.T) {
	r := newRig(t, nil)
	ids := r.fill(6, 200)
	require.Equal(t, ids[2:4], idsOf(r.batch(r.b, 0, fmt.Sprintf("?limit=2&after=%d", ids[1]))), "nothing is acknowledged")
	require.Equal(t, ids[:2], idsOf(r.batch(r.b, 0, "?limit=2")))

	require.Equal(t, ids[4:], idsOf(r.batch(r.b, ids[1], fmt.Sprintf("?limit=9&after=%d", ids[3]))), "the first two are acknowledged")
	require.Equal(t, ids[2:], idsOf(r.batch(r.b, 0, "?limit=9")))
	require.Equal(t, ids[4:], idsOf(r.batch(r.b, ids[3], fmt.Sprintf("?limit=9&after=%d", ids[0]))), "after says less than what is gone")
	require.Empty(t, r.batch(r.b, ids[5], "?limit=9"))
	require.Empty(t, r.fetch(r.b))
}

func TestBatchCaps(t *testing.T) {
	r := newRig(t, func(c *relay.Config) { c.MaxBatch, c.MaxBatchBytes = 3, 10_000 })
	ids := r.fill(5, 500)
	require.Equal(t, ids[:3], idsOf(r.batch(r.b, 0, "?limit=5")))
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "large", 1, 9_000)))
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "larger", 1, 20_000)))
	require.Len(t, r.batch(r.b, ids[4], "?limit=5"), 1, "both together are too much")
	require.Len(t, r.batch(r.b, ids[4], "?limit=5")[0].More, 0)

	first := r.batch(r.b, ids[4], "?limit=5")[0]
	got := r.batch(r.b, first.EntryID, "?limit=5")
	require.Len(t, got, 1, "one always fits")
	require.EqualValues(t, "larger", got[0].TransactionID)
}

// No limit of the batch is not no limit of the memory.
func TestUnlimitedBatches(t *testing.T) {
	r := newRig(t, func(c *relay.Config) { c.MaxBatch, c.MaxBatchBytes, c.MaxInFlightBytes = -1, -1, 400_000 })
	r.fill(20, 10_000)
	require.Len(t, r.batch(r.b, 0, "?limit=20"), 9, "a quarter of what may be in flight")
}

// A query that can't be read acknowledges nothing.
func TestBadQueries(t *testing.T) {
	r := newRig(t, nil)
	ids := r.fill(2, 200)
	for _, query := range []string{
		"?limit=0", "?limit=-1", "?limit=x", "?limit=", "?limit=1.5", "?limit=1&limit=2", "?limit=99999999999999999999",
		"?after=-1", "?after=x", "?after=1&after=1", "?timeout=-1", "?timeout=1s", "?timeout=", "?limit=%zz",
	} {
		status, body := r.askWith(context.Background(), r.b, ids[0], query)
		requireError(t, http.StatusBadRequest, "M_INVALID_PARAM", status, body)
		require.Equal(t, ids, idsOf(r.batch(r.b, 0, "?limit=9")), query)
	}
	status, body := r.askWith(context.Background(), r.b, -1, "?limit=1")
	requireError(t, http.StatusBadRequest, "M_BAD_JSON", status, body)
}

// Strangers get no batches, and the query is signed, too.
func TestStrangersBatch(t *testing.T) {
	r := newRig(t, nil)
	ids := r.fill(2, 200)
	uri := wire.RelayTxnURI(relaytest.User(r.b.ServerName))
	request, err := r.c.Request(http.MethodGet, relayName, uri+"?limit=5", json.RawMessage(fmt.Sprintf(`{"entry_id":%d}`, ids[0])))
	require.NoError(t, err)
	status, body := r.do(request)
	requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
	request, err = r.b.Request(http.MethodGet, relayName, uri+"?limit=1", json.RawMessage(`{"entry_id":0}`))
	require.NoError(t, err)
	request.URL.RawQuery = "limit=2"
	status, body = r.do(request)
	requireError(t, http.StatusUnauthorized, "M_UNAUTHORIZED", status, body)
	require.Equal(t, ids, idsOf(r.batch(r.b, 0, "?limit=9")))
}

// Where memory is short a batch is, too.
func TestBatchWithoutMemory(t *testing.T) {
	const size = 9 << 20 // more than a connection holds
	r := newRig(t, func(c *relay.Config) { c.MaxInFlightBytes = 16 << 20 })
	r.fill(30, 10_000)
	require.Len(t, r.batch(r.b, 0, "?limit=30"), 30)

	// Somebody asks for much and doesn't read it.
	status, body := r.put(r.b, "1", r.a.ServerName, string(largeContent(size)))
	require.Equal(t, http.StatusOK, status, body)
	request, err := r.a.Request(http.MethodGet, relayName, wire.RelayTxnURI(relaytest.User(r.a.ServerName)), json.RawMessage(`{"entry_id":0}`))
	require.NoError(t, err)
	response, err := r.network.RoundTrip(request)
	require.NoError(t, err)
	defer func() { require.NoError(t, response.Body.Close()) }()
	require.Equal(t, http.StatusOK, response.StatusCode)

	require.Len(t, r.batch(r.b, 0, "?limit=30"), 1, "short, not refused")
	require.NoError(t, response.Body.Close())
	require.Eventually(t, func() bool { return len(r.batch(r.b, 0, "?limit=30")) == 30 }, generous, tick)
}

// Two batches at once of a mailbox that is filled lose and repeat nothing that
// was acknowledged.
func TestBatchesAhead(t *testing.T) {
	r := newRig(t, func(c *relay.Config) { c.MaxBatch = 7 })
	const count = 60
	r.fill(count, 100)
	var seen []string
	acknowledge, after := int64(0), int64(0)
	for {
		got := r.batch(r.b, acknowledge, fmt.Sprintf("?limit=7&after=%d", after))
		if len(got) == 0 {
			break
		}
		acknowledge, after = after, got[len(got)-1].EntryID
		for _, e := range got {
			seen = append(seen, string(e.TransactionID))
		}
	}
	require.Len(t, seen, count)
	require.Equal(t, "t0 t1 t2", strings.Join(seen[:3], " "))
	usage, err := r.store.Usage(context.Background(), r.b.ServerName)
	require.NoError(t, err)
	require.EqualValues(t, count%7, usage.Entries, "the last batch isn't acknowledged")
	require.Empty(t, r.batch(r.b, after, "?limit=7"))
}

// heldWriter notes how much of the budget is held while an answer is sent.
type heldWriter struct {
	*httptest.ResponseRecorder
	server *relay.Server
	held   int64
}

func (h *heldWriter) Write(p []byte) (int, error) {
	h.held = max(h.held, h.server.HeldByAnswers())
	return h.ResponseRecorder.Write(p)
}

// A short answer to a request for much holds its own size, not the size that it might
// have had.
func TestShortBatchHoldsLittle(t *testing.T) {
	r := newRig(t, nil)
	r.fill(1, 300)
	request, err := r.b.Request(http.MethodGet, relayName, wire.RelayTxnURI(relaytest.User(r.b.ServerName))+"?limit=50", json.RawMessage(`{"entry_id":0}`))
	require.NoError(t, err)
	w := &heldWriter{httptest.NewRecorder(), r.server, 0}
	r.server.ServeHTTP(w, request)
	require.Equal(t, http.StatusOK, w.Code)
	require.Positive(t, w.held)
	require.LessOrEqual(t, w.held, int64(w.Body.Len()))
	require.Zero(t, r.server.HeldByAnswers())
}

// Nobody else's mail.

func TestStrangerReadsNothing(t *testing.T) {
	r := newRig(t, nil)
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "1", 1, 100)))
	entry := r.peek(r.b, 0).EntryID

	for _, stranger := range []*relaytest.Node{r.a, r.c} {
		for _, id := range []int64{0, entry} {
			status, body := r.ask(stranger, r.b.ServerName, fmt.Sprintf(`{"entry_id":%d}`, id))
			requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
		}
	}
	// With another server's name on the request and its own key.
	forged := *r.c
	forged.ServerName = r.b.ServerName
	status, body := r.ask(&forged, r.b.ServerName, fmt.Sprintf(`{"entry_id":%d}`, entry))
	requireError(t, http.StatusUnauthorized, "M_UNAUTHORIZED", status, body)

	require.Equal(t, entry, r.peek(r.b, 0).EntryID, "nothing was acknowledged")
}

func TestStrangerAcknowledgesNothing(t *testing.T) {
	r := newRig(t, nil)
	require.NoError(t, r.send(r.a, r.a.Transaction(r.c.ServerName, "1", 1, 100)))
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "1", 1, 100)))
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "2", 1, 100)))
	require.NoError(t, r.send(r.a, r.a.Transaction(r.c.ServerName, "2", 1, 100)))
	first := r.peek(r.b, 0).EntryID

	own := r.peek(r.c, 0).EntryID
	for _, id := range []int64{first, first + 1, first - 1, first + 1000, 1<<53 - 1, 1<<63 - 1} {
		answer := r.peek(r.c, id)
		if id == own { // its own entry, after all
			own = answer.EntryID
			continue
		}
		require.Equal(t, own, answer.EntryID, "acknowledging %d of somebody else's removes nothing", id)
	}
	require.Len(t, r.fetch(r.b), 2)
}

func TestMadeUpNumbersAcknowledgeNothing(t *testing.T) {
	r := newRig(t, nil)
	for i := range 3 {
		require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, fmt.Sprint(i), 1, 100)))
	}
	first := r.peek(r.b, 0).EntryID
	second := r.peek(r.b, first).EntryID
	for _, id := range []int64{0, first, second + 1000, 1<<63 - 1} {
		require.Equal(t, second, r.peek(r.b, id).EntryID, "%d", id)
	}
}

// A server that asks is online, whether it acknowledges something or not, and
// whether there is mail. A request that is refused says nothing.
func TestAsked(t *testing.T) {
	var mu sync.Mutex
	var asked []spec.ServerName
	r := newRig(t, func(c *relay.Config) {
		c.Asked = func(server spec.ServerName) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, server)
		}
	})
	requireAsked := func(want ...spec.ServerName) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, want, asked)
		asked = nil
	}
	b := r.b.ServerName
	require.NoError(t, r.send(r.a, r.a.Transaction(b, "1", 1, 100)))
	requireAsked()
	entry := r.peek(r.b, 0).EntryID
	requireAsked(b)
	require.False(t, r.peek(r.b, entry).EntriesQueued)
	requireAsked(b)
	r.peek(r.b, entry+1000) // an entry that isn't there
	requireAsked(b)
	for _, content := range []string{`{"entry_id":-1}`, `[]`} {
		status, _ := r.ask(r.b, b, content)
		require.Equal(t, 400, status)
	}
	status, _ := r.ask(r.c, b, fmt.Sprintf(`{"entry_id":%d}`, entry))
	require.Equal(t, 403, status)
	requireAsked()
}
