package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/sqlite"
)

const asOutbox = "outbox"

func init() { programs[asOutbox] = outboxProgram }

// outboxProgram takes transactions into an Outbox in a database, and tries to
// deliver them until it is killed. Its arguments are the database, the address of
// the destination, and the first and the last number of the transactions.
func outboxProgram() {
	if err := runOutbox(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintf(os.Stderr, "msg=listening address=%s\n", os.Args[2]) // waitReady waits for this
	select {}
}

func runOutbox(db, address, first, last string) error {
	ctx := context.Background()
	from, to := relaytest.NewNode("from"), relaytest.NewNode("to").ServerName
	mail, err := sqlite.Open(db, sqlite.Options{})
	if err != nil {
		return err
	}
	network := relaytest.NewNetwork()
	network.Set(to, relaytest.Host{Address: address})
	caller, err := client.NewCaller(client.CallerConfig{Identity: from.SigningIdentity, Transport: network})
	if err != nil {
		return err
	}
	sender, err := client.NewSender(client.SenderConfig{Caller: caller, Peers: client.NewPeers()})
	if err != nil {
		return err
	}
	outbox, err := client.OpenOutbox(ctx, client.OutboxConfig{
		Sender: sender, Store: mail, Backoff: client.Backoff{First: time.Millisecond, Most: 20 * time.Millisecond},
		Notify: func(e client.Event) { fmt.Fprintln(os.Stderr, "event", e.Result, e.TransactionID) },
	})
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(first)
	if err != nil {
		return err
	}
	for ; fmt.Sprint(n-1) != last; n++ {
		t, err := client.NewTransaction(from.Transaction(to, fmt.Sprint(n), 1, 300))
		if err != nil {
			return err
		}
		if err := outbox.Enqueue(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// A gate is a destination that takes nothing until it is open.
type gate struct {
	*httptest.Server

	mu    sync.Mutex
	open  bool
	tried int
	got   []string // each once, in the order in which they came first
	known map[string]bool
}

func newGate(t *testing.T) *gate {
	g := &gate{known: make(map[string]bool)}
	g.Server = httptest.NewServer(g)
	t.Cleanup(g.Close)
	return g
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // so that the connection can be used again
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tried++
	if !g.open {
		http.Error(w, "not yet", http.StatusServiceUnavailable)
		return
	}
	if id := path.Base(r.URL.Path); !g.known[id] {
		g.known[id] = true
		g.got = append(g.got, id)
	}
	_ = json.NewEncoder(w).Encode(struct{}{}) // a sender that doesn't get it comes again
}

func (g *gate) attempts() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.tried
}

// opens lets everything in from now on.
func (g *gate) opens() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = true
}

func (g *gate) delivered() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string{}, g.got...)
}

// testOutboxClock has an Outbox take transactions, try them, and be killed and
// started again, while its clock is set here and there. It goes on trying all the
// while, nothing expires, and all arrive in order when the destination is back.
func testOutboxClock(t *testing.T, path string) {
	random := rand.New(rand.NewPCG(seeds.Of(t, "RELAY_CLOCK_SEED"), 0))
	clock, to, db := newWallClock(t), newGate(t), database(t)
	var want []string
	var p *program
	again := func(more int) {
		first := len(want) + 1
		for range more {
			want = append(want, fmt.Sprint(len(want)+1))
		}
		p = launchCommand(t, clock.command(path, asOutbox, []string{db, to.Listener.Addr().String(), fmt.Sprint(first), fmt.Sprint(len(want))}))
		p.waitReady()
	}
	goesOn := func() {
		before := to.attempts()
		require.Eventually(t, func() bool { return to.attempts() > before+1 }, patience, time.Millisecond, p.logged())
	}
	where := jumps()
	clock.set(where[random.IntN(len(where))]) // the machine boots with a wrong clock
	again(1 + random.IntN(3))
	for range 12 {
		clock.set(where[random.IntN(len(where))])
		if random.IntN(2) == 0 {
			p.kill()
			require.NotContains(t, p.logged(), "event")
			again(random.IntN(4))
		}
		goesOn()
		if random.IntN(2) == 0 {
			clock.set(0)
			goesOn()
		}
	}
	clock.set(0)
	to.opens()
	require.Eventually(t, func() bool { return len(to.delivered()) == len(want) }, patience, 5*time.Millisecond, p.logged())
	require.Equal(t, want, to.delivered())
	p.kill()
	require.NotContains(t, p.logged(), "event expired")
}
