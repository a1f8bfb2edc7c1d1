package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// A phone is an honest node behind the address of a flood, as behind a carrier's NAT. Its
// mailbox is claimed, and it keeps its connection.
type phone struct {
	*flood
	node       *relaytest.Node
	connection context.Context
}

const carrier = "203.0.113.1" // the flood's, too

func newPhone(f *flood) *phone {
	return &phone{f, relaytest.NewNode("phone"), relay.ConnContext(f.Context(), &net.TCPConn{})}
}

func (p *phone) do(method, uri, content string) (status int) {
	r := p.request(p.node, method, uri, content).WithContext(p.connection)
	status, _ = p.flood.do(carrier, r)
	return status
}

// use leaves mail, also for servers that nobody has heard of, large mail and mail whose
// signature takes long to check, and fetches its own. It returns how much was done.
func (p *phone) use(round int) (done int) {
	for i, to := range []string{string(p.nodes[0].ServerName), fmt.Sprint("friend", round%3, ".example"), string(p.nodes[1].ServerName)} {
		content := json.RawMessage(`{"pdus":[]}`)
		if i == 2 && round%5 == 0 {
			content = largeContent(20_000)
		}
		if p.do(http.MethodPut, fmt.Sprintf("%ssend_relay/%d-%d/@user:%s", wire.Prefix, round, i, to), string(content)) == http.StatusOK {
			done++
		}
	}
	if p.do(http.MethodGet, fmt.Sprint(wire.Prefix, "relay_txn/@user:", p.node.ServerName, "?limit=500"), `{"entry_id":0}`) == http.StatusOK {
		done++
	}
	return done
}

// A claimed phone behind a flooder's address gets at least half of its requests
// done, on a connection that has asked for its mail before the flood.
func TestPhoneBehindAFlood(t *testing.T) {
	skipIfShort(t)
	seeds.Each(t, "RELAY_FLOOD_SEED", "RELAY_FLOOD_RUNS", 1, func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) { testPhone(t, rand.New(rand.NewPCG(seed, 0))) })
	})
}

func testPhone(t *testing.T, random *rand.Rand) {
	f := newFlood(t, random, 1, true)
	defer f.close()
	for i, node := range f.nodes[:2] {
		f.fetch(node, fmt.Sprint("198.51.100.", i), 0)
	}
	p := newPhone(f)
	p.use(0)
	flood := func(requests int, gap time.Duration) {
		for range requests {
			f.attack()
			time.Sleep(gap)
		}
	}
	const seconds, perSecond, atOnce = 4, 250, 1200
	flood(atOnce, 0)
	done := 0
	for second := range seconds {
		flood(perSecond, time.Second/perSecond)
		flood(10, 0)
		done += p.use(second)
	}
	require.Greater(t, f.statuses[http.StatusTooManyRequests], seconds*perSecond/8)
	require.GreaterOrEqual(t, float64(done)/(4*seconds), 0.5)
	require.Equal(t, http.StatusTooManyRequests, f.put(p.node, carrier, f.nodes[0].ServerName, 100), "on another connection")
}
