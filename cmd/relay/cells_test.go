package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// All requests about a mailbox reach one cell, however they are spelt, and with the path
// that was sent.
func TestCellOfRequest(t *testing.T) {
	var cells [2]string
	for i := range cells {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprint(w, i, " ", r.RequestURI) // the test sees whether it comes
		}))
		t.Cleanup(server.Close)
		cells[i] = server.Listener.Addr().String()
	}
	eachCellProxy(t, cells, func(p *cellProxy) {
		counts := make(map[string]int)
		for i := range 40 {
			name := fmt.Sprintf("server%d.example", i)
			if i%3 == 0 {
				name += ":8448"
			}
			escaped := strings.ReplaceAll(name, ":", "%3A")
			cell := ""
			for _, r := range []struct{ method, uri, authorization string }{
				{"PUT", wire.Prefix + "send_relay/1766620800000-1/@user:" + name, `X-Matrix origin="other.example",destination="relay",key="ed25519:1",sig="x"`},
				{"PUT", wire.Prefix + "send_relay/1/%40user%3A" + escaped, ""},
				{"PUT", wire.Prefix + "send_relay/a%2F@b:c/@us%2Fer:" + name + "?receipts=5", ""},
				{"GET", wire.Prefix + "relay_txn/@user:" + name, ""},
				{"GET", wire.Prefix + "relay_txn/%40user%3a" + escaped + "?limit=50&timeout=3000", ""},
				{"PUT", wire.Unstable + "relays/" + name, `X-Matrix origin=other.example,destination="relay",key="ed25519:1",sig="x"`},
				{"GET", wire.Unstable + "relays/" + escaped, ""},
				{"GET", wire.Unstable + "receipts?destination=" + escaped + "&after=7", `X-Matrix origin="other.example",key="ed25519:1",sig="x"`},
				{"GET", wire.Unstable + "receipts?after=7&destination=" + name, ""},
				{"PUT", wire.Unstable + "receipts", `X-Matrix origin="` + name + `",destination="relay",key="ed25519:1",sig="x"`},
				{"GET", wire.Unstable + "mailbox", `X-Matrix origin=` + name + `,destination=relay,key="ed25519:1",sig="x"`},
				{"PUT", wire.Unstable + "policy", `X-Matrix key="ed25519:1",origin="` + name + `",sig="x"`},
				{"PUT", wire.Unstable + "leave", `X-Matrix destination="relay", origin="` + name + `", key="ed25519:1", sig="x"`},
			} {
				said := p.ask(r.method, r.uri, r.authorization)
				got, uri, _ := strings.Cut(said, " ")
				require.Equal(p, r.uri, uri)
				if cell == "" {
					cell = got
				}
				require.Equal(p, cell, got, "%s %s %s", name, r.uri, r.authorization)
			}
			counts[cell]++
		}
		require.Len(p, counts, 2)
		require.Greater(p, min(counts["0"], counts["1"]), 8)
		require.Contains(p, p.ask("GET", wire.Unstable+"info", ""), wire.Unstable+"info", "any cell can answer it")
		p.move(map[spec.ServerName]string{"slip.example": "7"})
		require.NoError(p, p.command.Process.Signal(p.reload))
		slip := func() bool { // no cell has the mail of one that there isn't
			return strings.Contains(p.ask("GET", wire.Prefix+"relay_txn/@user:slip.example", ""), "50")
		}
		require.Eventually(p, slip, patience, 10*time.Millisecond)
	})
}

// Two cells share the mailboxes. While one is down, its senders are told to come later, and
// nothing gets into the other.
func TestCells(t *testing.T) {
	c := newCells(t)
	round := 0
	eachCellProxy(t, c.addresses, func(p *cellProxy) {
		round++
		network, a := p.network(), relaytest.NewNode("a")
		var nodes []*relaytest.Node
		for i := range 12 {
			node := relaytest.NewNode(fmt.Sprint("cells", round, i))
			nodes = append(nodes, node)
			require.NoError(p, put(p, network, a, a.Transaction(node.ServerName, "1", 1, 100)))
		}
		where, has := c.where(p.T), [2]int{}
		for _, cell := range where {
			has[cell]++
		}
		require.Len(p, where, len(nodes))
		require.Positive(p, min(has[0], has[1]))

		c.running[1].stop()
		for _, node := range nodes {
			err := put(p, network, a, a.Transaction(node.ServerName, "2", 1, 100))
			if where[node.ServerName] == 0 {
				require.NoError(p, err)
				got, err := get(p, network, node, 0)
				require.NoError(p, err)
				require.True(p, got.EntriesQueued)
				continue
			}
			require.ErrorContains(p, err, "50") // 502 or 503: later
			_, err = get(p, network, node, 0)
			require.Error(p, err)
		}
		require.Len(p, toolJSON[[]admin.Mailbox](p.T, "mailboxes", "--db", c.dbs[0]), has[0], "nothing of the other's")
		c.start(1)
		for _, node := range nodes {
			require.NoError(p, put(p, network, a, a.Transaction(node.ServerName, "2", 1, 100)))
			last := int64(0)
			for n := 0; ; n++ {
				got, err := get(p, network, node, last)
				require.NoError(p, err)
				if !got.EntriesQueued {
					require.Equal(p, 2, n)
					break
				}
				last = got.EntryID
			}
		}
	})
}

// A traffic is a sender and a receiver that go on whatever happens: each comes again
// later where it is refused.
type traffic struct {
	*testing.T
	network *relaytest.Network
	from    *relaytest.Node
	to      *relaytest.Node
	over    atomic.Bool // the sender sends no more
	running sync.WaitGroup

	sent, sentLater, fetchedLater atomic.Int64

	got []string // that are new, in order
}

const laterTime = 10 * time.Millisecond

// send sends one transaction after the other.
func (f *traffic) send() {
	for ; !f.over.Load(); f.sent.Add(1) {
		id, size := fmt.Sprint("t", f.sent.Load()), 100
		if f.sent.Load() < 3 {
			size = 2_500_000 // so that the mailbox has several pages
		}
		for put(f, f.network, f.from, f.from.Transaction(f.to.ServerName, id, 1, size)) != nil && f.Context().Err() == nil {
			f.sentLater.Add(1)
			time.Sleep(laterTime)
		}
	}
}

var bodyID = regexp.MustCompile(`"body":"(t\d+)-0 `)

// fetch fetches until all is over and there is no more.
func (f *traffic) fetch() {
	seen, last := make(map[string]bool), int64(0)
	for f.Context().Err() == nil {
		over := f.over.Load()
		got, err := get(f, f.network, f.to, last)
		switch {
		case err != nil:
			f.fetchedLater.Add(1)
			time.Sleep(laterTime)
		case got.EntriesQueued:
			last = got.EntryID
			if id := bodyID.FindSubmatch(got.Transaction.PDUs[0]); !seen[string(id[1])] {
				seen[string(id[1])] = true
				f.got = append(f.got, string(id[1]))
			}
		case over:
			return
		}
	}
}

// A mailbox moves to the other cell while mail comes and is fetched: nothing is lost, and
// the order stays.
func TestMoveMailbox(t *testing.T) {
	c := newCells(t)
	eachCellProxy(t, c.addresses, func(p *cellProxy) {
		f := &traffic{T: p.T, network: p.network(), from: relaytest.NewNode("a"), to: relaytest.NewNode(p.Name())}
		name := f.to.ServerName
		f.running.Go(f.send)
		enough := func(n int64) func() bool { return func() bool { return f.sent.Load() >= n } }
		require.Eventually(p, enough(50), patience, laterTime)
		from := c.where(p.T)[name]
		to := 1 - from
		f.running.Go(f.fetch)
		lead := func(where string) {
			p.move(map[spec.ServerName]string{name: where})
			require.NoError(p, p.command.Process.Signal(p.reload))
		}
		sent, fetched := f.sentLater.Load(), f.fetchedLater.Load()
		lead("moving")
		require.Eventually(p, func() bool { return f.sentLater.Load() > sent && f.fetchedLater.Load() > fetched }, patience, laterTime,
			"no request of before is under way")

		move := []string{"move", "--destination", string(name), "--admin", "unix:" + c.dbs[from] + "-admin", "--db", c.dbs[to]}
		status, _, stderr := runTool(p, move...)
		require.Equal(p, exitFailed, status)
		require.Contains(p, stderr, "in use")
		c.running[to].stop()
		require.NotContains(p, tool(p.T, move...), " 0 transactions")
		require.Contains(p, tool(p.T, move...), "0 transactions", "all is done")
		c.start(to)
		require.Equal(p, to, c.where(p.T)[name])
		lead(fmt.Sprint(to))
		require.Eventually(p, enough(f.sent.Load()+20), patience, laterTime)
		f.over.Store(true)
		f.running.Wait()
		for i, id := range f.got {
			require.Equal(p, fmt.Sprint("t", i), id)
		}
		require.EqualValues(p, f.sent.Load(), len(f.got))
		require.NotContains(p, c.where(p.T), name)
	})
}

// A mailbox moves with its claim and its owner's policy.
func TestMoveClaimedMailbox(t *testing.T) {
	key, dbs := filepath.Join(t.TempDir(), "invite.key"), [2]string{database(t), database(t)}
	serve := func(i int) *program {
		return startAsUsersDo(t, "--db", dbs[i], "--mode", "invite", "--invite-key", key)
	}
	first, second := serve(0), serve(1)
	second.stop()
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	caller, err := client.NewCaller(client.CallerConfig{Identity: b.SigningIdentity, Transport: first.network()})
	require.NoError(t, err)
	require.NoError(t, caller.Claim(t.Context(), relayName, tool(t, "invite", "--invite-key", key)))
	requirePolicies(t, first, b)
	require.NoError(t, put(t, first.network(), a, a.Transaction(b.ServerName, "1", 1, 300)))

	move := []string{"move", "--destination", string(b.ServerName), "--admin", "unix:" + dbs[0] + "-admin", "--db", dbs[1]}
	require.Contains(t, tool(t, move...), "1 transactions")
	second = serve(1)
	enemy, network := relaytest.NewNode("enemy"), second.network()
	require.NoError(t, put(t, network, a, a.Transaction(b.ServerName, "2", 1, 300)))
	requireStatus(t, http.StatusForbidden, put(t, network, enemy, enemy.Transaction(b.ServerName, "3", 1, 300)))
	requireStatus(t, http.StatusForbidden, put(t, network, a, a.Transaction(enemy.ServerName, "4", 1, 300)))
	got, err := get(t, network, b, 0)
	require.NoError(t, err)
	require.Contains(t, string(got.Transaction.PDUs[0]), `"body":"1-0 `)
}

// The other mistakes of an operator are told.
func TestMoveMailboxMistakes(t *testing.T) {
	for want, args := range map[string][]string{
		"needs --admin and --db": {"--destination", "b.example", "--db", "relay.db"},
		"is for all mail":        {"--destination", "b.example", "--db", "relay.db", "--move-from", "other.db"},
		"not a server name":      {"--destination", "in_valid", "--db", "relay.db", "--admin", "unix:s"},
		"is lost":                {"--destination", "b.example", "--db", inMemory, "--admin", "unix:s"},
	} {
		status, _, stderr := runTool(t, append([]string{"move"}, args...)...)
		require.Equal(t, exitUsage, status)
		require.Contains(t, stderr, want)
	}
	status, _, stderr := runTool(t, "move", "--destination", "b.example", "--db", "relay.db", "--admin", "unix:nosuch")
	require.Equal(t, exitLater, status)
	require.Contains(t, stderr, "no relay answers at unix:nosuch")
}
