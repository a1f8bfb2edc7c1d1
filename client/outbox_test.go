package client_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// An outWorld is a world whose node has an outbox.
type outWorld struct {
	*world
	mail   *memory.Store
	outbox *client.Outbox
	change func(*client.OutboxConfig)

	mu     sync.Mutex
	events []string
}

func inOutWorld(t *testing.T, change func(*client.OutboxConfig), run func(*outWorld)) {
	inWorld(t, nil, func(w *world) {
		o := &outWorld{world: w, mail: memory.New(memory.Options{}), change: change}
		o.open()
		run(o)
		require.NoError(t, o.outbox.Close())
		require.NoError(t, o.outbox.Close())
		require.NoError(t, o.mail.Close())
	})
}

func (o *outWorld) open() {
	config := client.OutboxConfig{Sender: o.sender, Store: o.mail, Logger: slog.New(slog.DiscardHandler), Notify: o.note}
	if o.change != nil {
		o.change(&config)
	}
	var err error
	o.outbox, err = client.OpenOutbox(o.Context(), config)
	require.NoError(o, err)
}

// note keeps the events, without those of further relays.
func (o *outWorld) note(e client.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e.Result == client.ResultRelayed && e.At > 1 {
		return
	}
	o.events = append(o.events, fmt.Sprintf("%s %s", e.TransactionID, e.Result))
}

// told returns the events since the last call.
func (o *outWorld) told() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	events := o.events
	o.events = nil
	return events
}

func (o *outWorld) enqueue(ids ...string) {
	o.Helper()
	for _, id := range ids {
		require.NoError(o, o.outbox.Enqueue(o.Context(), transaction(o.T, id)))
	}
}

// toDead enqueues a transaction for a destination that hangs.
func (o *outWorld) toDead(i int) {
	dead := spec.ServerName(fmt.Sprintf("dead%d", i))
	o.net.Set(dead, relaytest.Host{Hangs: true})
	made, err := client.NewTransaction(a.Transaction(dead, "x", 1, 100))
	require.NoError(o, err)
	require.NoError(o, o.outbox.Enqueue(o.Context(), made))
}

// queued returns how many transactions wait for a server.
func (o *outWorld) queued(server spec.ServerName) int {
	usage, err := o.mail.Usage(o.Context(), store.Private("outbox", server))
	require.NoError(o, err)
	return int(usage.Entries)
}

func TestOutboxDelivers(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		o.relays(takes, takes, takes)
		o.net.Set(b.ServerName, takes)
		o.enqueue("1", "2", "3", "2")
		time.Sleep(time.Second)
		require.Equal(t, []string{"1 delivered", "2 delivered", "3 delivered"}, o.told())
		require.Zero(t, o.queued(b.ServerName))
		require.Zero(t, o.net.Asked(r1))
	})
}

// Mail that only a relay took is handed over directly, in order, once the
// destination is seen.
func TestOutboxHandsOver(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		o.relays(takes, takes, takes)
		o.enqueue("1", "2")
		time.Sleep(time.Second)
		o.enqueue("3")
		time.Sleep(time.Second)
		require.Equal(t, []string{"1 relayed", "2 relayed", "3 relayed"}, o.told())
		require.Equal(t, 3, o.queued(b.ServerName))
		require.NoError(t, o.sender.Close())
		require.Equal(t, 3, o.net.Asked(r1), "each once")

		o.net.Set(b.ServerName, takes)
		o.outbox.Seen(b.ServerName)
		time.Sleep(time.Second)
		require.Equal(t, []string{"1 delivered", "2 delivered", "3 delivered"}, o.told())
		require.False(t, o.peers.Offline(b.ServerName))
		notes, err := o.mail.Notes(o.Context(), "outbox/", "", 10)
		require.NoError(t, err)
		require.Empty(t, notes)
	})
}

// Without being told, it finds out by itself.
func TestOutboxRetries(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		o.relays(relaytest.Host{}, relaytest.Host{}, relaytest.Host{})
		o.enqueue("1")
		time.Sleep(24 * time.Hour)
		require.Empty(t, o.told())
		asked := o.net.Asked(b.ServerName)
		require.Greater(t, asked, 90)
		require.Less(t, asked, 250, "later and later, at most every quarter of an hour")
		o.relays(relaytest.Host{}, relaytest.Host{}, takes)
		time.Sleep(time.Hour)
		require.Equal(t, []string{"1 relayed"}, o.told())
		o.net.Set(b.ServerName, takes)
		time.Sleep(time.Hour)
		require.Equal(t, []string{"1 delivered"}, o.told())
	})
}

func TestOutboxSurvives(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		o.relays(takes, takes, takes)
		o.enqueue("1", "2")
		time.Sleep(time.Second)
		require.NoError(t, o.outbox.Close())
		o.relays(relaytest.Host{}, relaytest.Host{}, relaytest.Host{})
		require.Equal(t, []string{"1 relayed", "2 relayed"}, o.told())
		asked := o.net.Asked(r1)

		o.open()
		time.Sleep(time.Second)
		require.Equal(t, asked, o.net.Asked(r1), "mail that relays have isn't left there again")
		o.net.Set(b.ServerName, takes)
		o.enqueue("3")
		o.outbox.Seen(b.ServerName)
		time.Sleep(time.Hour)
		require.Equal(t, []string{"1 delivered", "2 delivered", "3 delivered"}, o.told())
	})
}

func TestOutboxEnds(t *testing.T) {
	inOutWorld(t, func(c *client.OutboxConfig) { c.KeepRelayed, c.MaxAge = 2, time.Hour }, func(o *outWorld) {
		o.net.Set(b.ServerName, answers(400, `{"errcode":"M_BAD_JSON","error":"no"}`))
		o.enqueue("1")
		time.Sleep(time.Second)
		require.Equal(t, []string{"1 refused"}, o.told())

		o.net.Set(b.ServerName, relaytest.Host{})
		o.relays(takes, takes, takes)
		o.enqueue("2", "3", "4")
		time.Sleep(time.Minute)
		require.Equal(t, []string{"2 relayed", "3 relayed", "4 relayed", "2 dropped"}, o.told())
		time.Sleep(2 * time.Hour)
		require.Equal(t, []string{"3 expired", "4 expired"}, o.told())
		require.Zero(t, o.queued(b.ServerName))

		// Mail that all relays refuse waits for the destination.
		o.relays(tooLarge, tooLarge, answers(400, `{"errcode":"M_BAD_JSON"}`))
		o.enqueue("5", "6")
		time.Sleep(time.Minute)
		require.Empty(t, o.told())
		o.net.Set(b.ServerName, takes)
		o.outbox.Seen(b.ServerName)
		time.Sleep(time.Second)
		require.Equal(t, []string{"5 delivered", "6 delivered"}, o.told())
	})
}

// Mail that no relay has is never dropped, also after a restart.
func TestOutboxKeepsWhatRelaysRefuse(t *testing.T) {
	inOutWorld(t, func(c *client.OutboxConfig) { c.KeepRelayed = -1 }, func(o *outWorld) {
		o.relays(tooLarge, tooLarge, tooLarge)
		o.enqueue("1")
		time.Sleep(time.Minute)
		require.Empty(t, o.told())
		require.NoError(t, o.outbox.Close())
		o.relays(takes, takes, takes)
		o.open()
		o.enqueue("2")
		time.Sleep(time.Hour)
		require.Equal(t, []string{"2 relayed"}, o.told())
		o.net.Set(b.ServerName, takes)
		time.Sleep(time.Hour)
		require.Equal(t, []string{"1 delivered", "2 delivered"}, o.told())
	})
}

func TestOutboxRefusesAtOnce(t *testing.T) {
	inOutWorld(t, func(c *client.OutboxConfig) { c.Limits = store.Limits{Entries: 1} }, func(o *outWorld) {
		require.Error(t, o.outbox.Enqueue(o.Context(), client.Transaction{ID: "1", Destination: b.ServerName, Body: []byte(`{`)}))
		require.Error(t, o.outbox.Enqueue(o.Context(), client.Transaction{ID: "1", Destination: "no name", Body: []byte(`{"pdus":[]}`)}))
		upper := spec.ServerName(strings.ToUpper(string(b.ServerName)))
		require.Error(t, o.outbox.Enqueue(o.Context(), client.Transaction{ID: "1", Destination: upper, Body: []byte(`{"pdus":[]}`)}))
		for _, body := range []string{`{"pdus":[null]}`, `{"edus":[null],"pdus":[]}`} {
			require.Error(t, o.outbox.Enqueue(o.Context(), client.Transaction{ID: "1", Destination: b.ServerName, Body: []byte(body)}), body)
		}
		o.enqueue("1")
		require.ErrorIs(t, o.outbox.Enqueue(o.Context(), transaction(o.T, "2")), store.ErrFull)
	})
}

// While a destination is offline and hangs, new transactions are at its relays
// at once, and don't make it be left alone for longer.
func TestOutboxRelaysAtOnce(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		o.relays(takes, takes, takes)
		o.net.Set(b.ServerName, relaytest.Host{Hangs: true})
		o.enqueue("0")
		time.Sleep(time.Minute)
		require.Equal(t, []string{"0 relayed"}, o.told())
		asked := o.net.Asked(b.ServerName)
		for i := range 100 {
			o.enqueue(fmt.Sprint(i + 1))
			time.Sleep(client.DefaultDirectTimeout + time.Second)
			require.Equal(t, []string{fmt.Sprint(i+1, " relayed")}, o.told())
		}
		require.Less(t, o.net.Asked(b.ServerName), asked+10, "not once for each transaction")
		o.net.Set(b.ServerName, takes)
		time.Sleep(client.DefaultMostBackoff)
		require.Len(t, o.told(), 101)
	})
}

// While some relays refuse a transaction and others can't be reached, all are
// asked again later and later, no matter how long they take to say so.
func TestOutboxAsksRelaysAgain(t *testing.T) {
	for _, latency := range []time.Duration{time.Millisecond, 5 * time.Second} {
		inOutWorld(t, nil, func(o *outWorld) {
			refuses := tooLarge
			refuses.Latency = latency
			o.relays(refuses, relaytest.Host{}, refuses)
			o.enqueue("1")
			time.Sleep(24 * time.Hour)
			require.Empty(t, o.told())
			require.Greater(t, o.net.Asked(r2), 90)
			require.Less(t, o.net.Asked(r2), 300)
			require.Less(t, o.net.Asked(r1), 300)
		})
	}
}

// A destination that has got relays needn't wait for its next attempt.
func TestOutboxUsesNewRelays(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		require.NoError(t, o.peers.RemoveRelays(t.Context(), b.ServerName, r1, r2, r3))
		o.enqueue("1")
		time.Sleep(24 * time.Hour)
		o.net.Set(r2, takes)
		require.NoError(t, o.peers.AddRelays(t.Context(), b.ServerName, r2))
		time.Sleep(time.Second)
		require.Equal(t, []string{"1 relayed"}, o.told())
	})
}

// After a restart, destinations that were never offline don't wait for a crowd
// of dead ones.
func TestOutboxIsFairAfterRestart(t *testing.T) {
	inOutWorld(t, func(c *client.OutboxConfig) { c.Workers = 8 }, func(o *outWorld) {
		for i := range 500 {
			o.toDead(i)
		}
		time.Sleep(time.Hour)
		require.NoError(t, o.outbox.Close())
		o.enqueue("1")
		o.net.Set(b.ServerName, takes)
		o.open()
		time.Sleep(time.Minute)
		require.Equal(t, []string{"1 delivered"}, o.told())
	})
}

// A thousand dead destinations, which hang, don't delay one that answers.
func TestOutboxIsFair(t *testing.T) {
	inOutWorld(t, func(c *client.OutboxConfig) { c.Workers = 8 }, func(o *outWorld) {
		o.net.Set(b.ServerName, takes)
		o.enqueue("0")
		for i := range 1000 {
			o.toDead(i)
		}
		time.Sleep(time.Minute)
		require.Equal(t, []string{"0 delivered"}, o.told())
		start := time.Now()
		for i := range 50 {
			o.outbox.Seen(b.ServerName) // an inbound request, say
			o.enqueue(fmt.Sprint("n", i))
			o.outbox.Seen(b.ServerName)
		}
		for o.queued(b.ServerName) > 0 {
			time.Sleep(time.Millisecond)
		}
		require.Less(t, time.Since(start), 50*20*time.Millisecond+time.Second, "in simulated time: as if it were alone")
		synctest.Wait()
	})
}

// Many destinations at once, each in order.
func TestOutboxKeepsOrder(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		var want []string
		for i := range 100 {
			to := spec.ServerName(fmt.Sprintf("d%d", i%10))
			o.net.Set(to, takes)
			made, err := client.NewTransaction(a.Transaction(to, fmt.Sprintf("%d-%d", i%10, i/10), 1, 100))
			require.NoError(t, err)
			require.NoError(t, o.outbox.Enqueue(o.Context(), made))
			want = append(want, fmt.Sprintf("%d-%d delivered", i%10, i/10))
		}
		time.Sleep(time.Minute)
		got := o.told()
		slices.SortStableFunc(got, func(x, y string) int { return int(x[0]) - int(y[0]) })
		slices.SortStableFunc(want, func(x, y string) int { return int(x[0]) - int(y[0]) })
		require.Equal(t, want, got)
	})
}

// Where nothing is left alone by itself, an Outbox still rests between attempts.
func TestOutboxWithoutBackoff(t *testing.T) {
	inWorld(t, func(c *client.SenderConfig) { c.RelayBackoff = client.Backoff{First: -1} }, func(w *world) {
		o := &outWorld{world: w, mail: memory.New(memory.Options{}), change: func(c *client.OutboxConfig) { c.Backoff.First = -1 }}
		o.open()
		o.enqueue("1")
		minutes := seeds.Rounds(60, 6)
		time.Sleep(time.Duration(minutes) * time.Minute)
		for _, server := range []spec.ServerName{r1, b.ServerName} {
			require.Greater(t, o.net.Asked(server), 50*minutes)
			require.Less(t, o.net.Asked(server), 122*minutes)
		}
		require.NoError(t, o.outbox.Close())
		require.NoError(t, o.mail.Close())
	})
}
