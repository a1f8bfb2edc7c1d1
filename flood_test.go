package relay_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// A flood is a relay in the mode open with honest nodes whose mailboxes are claimed,
// and with strangers that do everything to stop a relay, at once, in simulated time.
type flood struct {
	*testing.T
	random    *rand.Rand
	server    *relay.Server
	store     *memory.Store
	addresses int // that the strangers have

	nodes     []*relaytest.Node // honest
	strangers []*relaytest.Node
	made      int
	wanted    map[spec.ServerName]int // mail that was taken and not fetched
	pending   map[spec.ServerName]int64
	statuses  map[int]int // of answers to strangers
}

const (
	floodStore   = 4 << 20
	floodPromise = 32 << 10
)

func newFlood(t *testing.T, random *rand.Rand, addresses int, protect bool) *flood {
	f := &flood{
		T: t, random: random, store: memory.New(memory.Options{}), addresses: addresses,
		wanted: make(map[spec.ServerName]int), pending: make(map[spec.ServerName]int64),
		statuses: make(map[int]int),
	}
	config := relay.Config{
		ServerName: relayName, Store: f.store, Logger: slog.New(slog.DiscardHandler), MaxStoreBytes: floodStore,
		MaxWaiting: -1, // refusals don't wait either: the attacker has a connection for each request
	}
	if protect {
		open, err := policy.NewOpen(policy.OpenConfig{Store: f.store, Promise: policy.Size{Bytes: floodPromise}})
		require.NoError(t, err)
		config.Policy = policy.All(policy.NewLimits(policy.LimitsConfig{}), open)
	}
	var err error
	f.server, err = relay.New(config)
	require.NoError(t, err)
	for i := range 16 {
		f.nodes = append(f.nodes, relaytest.NewNode(fmt.Sprint("honest", i)))
	}
	for i := range 50 {
		f.strangers = append(f.strangers, relaytest.NewNode(fmt.Sprint("stranger", i)))
	}
	return f
}

func (f *flood) close() {
	require.NoError(f, f.server.Close())
	require.NoError(f, f.store.Close())
}

// do asks the relay, from an address.
func (f *flood) do(address string, r *http.Request) (status int, body string) {
	in := httptest.NewRequest(r.Method, r.URL.RequestURI(), r.Body).WithContext(r.Context())
	in.Header = r.Header
	in.RemoteAddr = address + ":1"
	w := httptest.NewRecorder()
	f.server.ServeHTTP(w, in)
	return w.Code, w.Body.String()
}

func (f *flood) request(node *relaytest.Node, method, uri, content string) *http.Request {
	r, err := node.Request(method, relayName, uri, json.RawMessage(content))
	require.NoError(f, err)
	return r
}

func (f *flood) put(node *relaytest.Node, address string, to spec.ServerName, size int) int {
	f.made++
	content := `{"edus":[{"content":{"x":"` + strings.Repeat("x", size) + `"},"edu_type":"x"}],"pdus":[]}`
	status, _ := f.do(address, f.request(node, http.MethodPut, fmt.Sprint(wire.Prefix, "send_relay/", f.made, "/@user:", to), content))
	return status
}

func (f *flood) fetch(node *relaytest.Node, address string, acknowledge int64) (status int, answer wire.Answer) {
	uri := fmt.Sprint(wire.Prefix, "relay_txn/@user:", node.ServerName, "?limit=500")
	status, body := f.do(address, f.request(node, http.MethodGet, uri, fmt.Sprintf(`{"entry_id":%d}`, acknowledge)))
	if status == http.StatusOK {
		var err error
		answer, err = wire.ReadAnswer([]byte(body))
		require.NoError(f, err)
	}
	return status, answer
}

// beHonest has each honest node leave mail for another, and now and then fetch its own.
func (f *flood) beHonest(second int) (taken, tried int) {
	for i, node := range f.nodes {
		address := fmt.Sprint("198.51.100.", i)
		to := f.nodes[(i+1)%len(f.nodes)].ServerName
		tried++
		if f.put(node, address, to, 1000) == http.StatusOK {
			taken++
			f.wanted[to]++
		}
		if (second+i)%10 != 0 {
			continue
		}
		status, answer := f.fetch(node, address, f.pending[node.ServerName])
		tried++
		if status != http.StatusOK {
			continue
		}
		taken++
		if answer.EntriesQueued {
			f.wanted[node.ServerName] -= 1 + len(answer.More)
			f.pending[node.ServerName] = answer.EntryID
			if n := len(answer.More); n > 0 {
				f.pending[node.ServerName] = answer.More[n-1].EntryID
			}
		}
	}
	return taken, tried
}

// attack is one request of the strangers.
func (f *flood) attack() {
	address := "203.0.113.1"
	if f.addresses > 1 {
		i := f.random.IntN(f.addresses)
		address = fmt.Sprintf("203.0.%d.%d", i/250, i%250)
	}
	node := f.strangers[f.random.IntN(len(f.strangers))]
	status := 0
	switch f.random.IntN(6) {
	case 0: // for nobody
		status = f.put(node, address, spec.ServerName(fmt.Sprint("made-up-", f.made, ".example")), 8_000)
	case 1: // for one that doesn't exist
		status = f.put(node, address, "victim.example", 8_000)
	case 2: // for itself
		status = f.put(node, address, node.ServerName, 8_000)
	case 3: // and fetched
		_, answer := f.fetch(node, address, 0)
		status, _ = f.fetch(node, address, answer.EntryID)
	case 4:
		r := f.request(node, http.MethodPut, wire.Prefix+"send_relay/1/@user:x.example", `{"pdus":[]}`)
		r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), `sig="`, `sig="AAAA`, 1))
		status, _ = f.do(address, r)
	case 5:
		status, _ = f.do(address, httptest.NewRequest(http.MethodGet, "/_matrix/odd", nil))
	}
	f.statuses[status]++
}

// run floods for that long, at so many requests a second, and returns the part of the
// honest requests that was answered rightly.
func (f *flood) run(seconds, perSecond int) float64 {
	for i, node := range f.nodes {
		f.fetch(node, fmt.Sprint("198.51.100.", i), 0) // claims its mailbox
	}
	taken, tried := 0, 0
	for second := range seconds {
		for range perSecond {
			f.attack()
			time.Sleep(time.Second / time.Duration(perSecond))
		}
		ok, of := f.beHonest(second)
		taken, tried = taken+ok, tried+of
	}
	for second := range 20 { // each fetches twice more
		f.beHonest(second)
	}
	return float64(taken) / float64(tried)
}

func TestFlood(t *testing.T) {
	skipIfShort(t)
	seeds.Each(t, "RELAY_FLOOD_SEED", "RELAY_FLOOD_RUNS", 1, func(t *testing.T, seed uint64) {
		for _, addresses := range []int{1, 1000} {
			t.Run(fmt.Sprint(addresses), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testFlood(t, rand.New(rand.NewPCG(seed, 0)), addresses) })
			})
		}
	})
}

func testFlood(t *testing.T, random *rand.Rand, addresses int) {
	const seconds, perSecond = 8, 400
	f := newFlood(t, random, addresses, true)
	defer f.close()
	require.InDelta(t, 1.0, f.run(seconds, perSecond), 0, "answers to strangers: %v", f.statuses)
	for name, n := range f.wanted {
		require.Less(t, n, 12, "%s has fetched all but the last", name)
	}
	usage, err := f.store.Usage(t.Context(), "")
	require.NoError(t, err)
	require.LessOrEqual(t, usage.Bytes, int64(floodStore))
	if addresses == 1 {
		share := policy.DefaultAddress
		admitted := 0
		for status, n := range f.statuses {
			if status != http.StatusTooManyRequests {
				admitted += n
			}
		}
		require.LessOrEqual(t, admitted, share.Requests.Burst+int(share.Requests.PerSecond)*seconds)
		require.Greater(t, f.statuses[http.StatusTooManyRequests], seconds*perSecond/8)
	}
	require.NotZero(t, f.statuses[http.StatusInsufficientStorage], "the room for strangers was used up")
}

// Without a policy strangers fill the store: else the test of floods would show nothing.
func TestFloodWithoutPolicy(t *testing.T) {
	skipIfShort(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFlood(t, rand.New(rand.NewPCG(1, 1)), 1, false)
		defer f.close()
		require.Less(t, f.run(5, 400), 0.9)
	})
}
