package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// A nodeClock is a node's clock, which may be wrong. It is in UTC, and has no
// monotonic reading.
type nodeClock struct{ ahead atomic.Int64 } // nanoseconds

func (c *nodeClock) now() time.Time {
	return time.Now().UTC().Round(0).Add(time.Duration(c.ahead.Load()))
}

func (c *nodeClock) set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// keysByClock are the keys of named servers, as a gomatrixserverlib.KeyRing has them
// whose clock may be wrong: they are valid for a week by that.
type keysByClock struct {
	*keyBook
	clock *nodeClock
}

func (k keysByClock) VerifyJSONs(ctx context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	results, err := k.keyBook.VerifyJSONs(ctx, requests)
	for i, r := range requests {
		if age := k.clock.now().Sub(r.AtTS.Time()); err == nil && age.Abs() > 7*24*time.Hour {
			results[i].Error = fmt.Errorf("gomatrixserverlib: key with ID %q for %q not valid at %d", "ed25519:1", r.ServerName, r.AtTS)
		}
	}
	return results, err
}

// inWrongTime is a provenInbox with a clock that is so far ahead, and that must be
// right again within an hour.
func inWrongTime(t *testing.T, ahead time.Duration, change func(*client.ReceiverConfig), run func(*provenInbox, *nodeClock)) {
	inProvenInbox(t, nil, func(p *provenInbox) {
		clock := &nodeClock{}
		clock.set(ahead)
		p.keys.know("named", true)
		p.restart(func(_ *client.CallerConfig, c *client.ReceiverConfig) {
			c.Keys, c.Handle, c.Rejected = wire.HexKeys{Others: keysByClock{p.keys, clock}}, p.handle, p.reject
			change(c)
		})
		client.SetWall(p.receiver, clock.now)
		run(p, clock)
	})
}

const day = 24 * time.Hour

func (p *provenInbox) leaveNow(from *relaytest.Node, id string) {
	p.Helper()
	p.leaveAs(from, nodeB, id, fmt.Sprintf(`{"origin_server_ts":%d,"pdus":[{"n":%s}]}`, time.Now().UnixMilli(), id))
}

// While the clock is far ahead, nothing is too old. Old mail is refused when it is right.
func TestMaxAgeAndAWrongClock(t *testing.T) {
	maxAge := func(c *client.ReceiverConfig) { c.MaxAge = 30 * day }
	for _, ahead := range []time.Duration{31 * day, 40_000 * day, 70_000 * day}[:seeds.Rounds(3, 1)] {
		for _, boots := range []bool{true, false} { // with that clock
			inWrongTime(t, ahead, maxAge, func(p *provenInbox, clock *nodeClock) {
				if !boots {
					clock.set(0)
					client.SetWall(p.receiver, clock.now)
				}
				stop := p.run()
				if !boots {
					time.Sleep(5 * time.Hour)
					clock.set(ahead)
				}
				p.leaveNow(a, "1")
				p.leaveAs(relaytest.NewNode("c"), nodeB, "2", `{"origin_server_ts":1,"pdus":[{"n":2}]}`)
				time.Sleep(client.DefaultKeyPatience - time.Minute)
				require.Empty(t, p.taken())
				require.Empty(t, p.refused())
				clock.set(0)
				time.Sleep(client.DefaultMostBackoff)
				require.Len(t, p.taken(), 1)
				time.Sleep(4 * time.Hour)
				require.Len(t, p.taken(), 1)
				require.Len(t, p.refused(), 1)
				require.ErrorIs(t, p.why()[0], client.ErrTooOld)
				stop()
			})
		}
	}
	inWrongTime(t, 31*day, maxAge, func(p *provenInbox, clock *nodeClock) { // twice, and no mail meanwhile
		stop := p.run()
		for _, ahead := range []time.Duration{0, 32 * day} {
			time.Sleep(2*client.DefaultKeyPatience - time.Minute)
			clock.set(ahead)
		}
		p.leaveNow(a, "1")
		time.Sleep(client.DefaultKeyPatience / 2)
		require.Empty(t, p.refused())
		clock.set(0)
		time.Sleep(client.DefaultMostBackoff)
		require.Len(t, p.taken(), 1)
		stop()
	})
	inWrongTime(t, 0, maxAge, func(p *provenInbox, _ *nodeClock) {
		old := fmt.Sprintf(`{"origin_server_ts":%d,"pdus":[]}`, time.Now().Add(-31*day).UnixMilli())
		p.leaveAs(a, nodeB, "1", old)
		p.leaveNow(named, "2")
		d := p.sync()
		require.ErrorContains(t, d.Err, "unless our clock is wrong")
		require.Equal(t, 1, d.Handled, "another origin's passes it")
		time.Sleep(client.DefaultKeyPatience)
		require.Equal(t, client.Drained{Relay: r1, Rejected: 1}, p.sync())
		p.leaveAs(a, nodeB, "3", old)
		require.Equal(t, client.Drained{Relay: r1, Rejected: 1}, p.sync(), "at once: the clock has been right for long")
		require.Zero(t, p.left())
	})
}

// A key that isn't valid by our clock may be so when that is right. Where proof isn't
// required, mail that it signed is handed over unchecked after a while only.
func TestKeysAndAWrongClock(t *testing.T) {
	for _, ahead := range []time.Duration{-8 * day, 8 * day, -10_000 * day} {
		for _, required := range []bool{false, true} {
			change := func(c *client.ReceiverConfig) { c.RequireProof = required }
			inWrongTime(t, ahead, change, func(p *provenInbox, clock *nodeClock) {
				stop := p.run()
				p.leaveNow(named, "1")
				p.leaveNow(a, "2")
				p.leaveNow(named, "3")
				time.Sleep(client.DefaultKeyPatience - time.Minute)
				require.Len(t, p.taken(), 1, "keys that are names are always valid")
				clock.set(0)
				time.Sleep(client.DefaultMostBackoff)
				require.Equal(t, []client.ProofStatus{client.Proven, client.Proven, client.Proven}, p.statuses())
				require.EqualValues(t, "213", p.taken()[0].TransactionID+p.taken()[1].TransactionID+p.taken()[2].TransactionID)
				require.Zero(t, p.left())
				stop()
			})
			inWrongTime(t, ahead, change, func(p *provenInbox, _ *nodeClock) {
				p.leaveNow(named, "1")
				require.ErrorIs(t, p.sync().Err, wire.ErrKeyNotValid)
				time.Sleep(client.DefaultKeyPatience)
				p.leaveNow(named, "2")
				d := p.sync()
				require.NoError(t, d.Err)
				if required {
					require.Equal(t, 2, d.Rejected)
				} else {
					require.Equal(t, []client.ProofStatus{client.Unchecked, client.Unchecked}, p.statuses())
				}
			})
		}
	}
}

// Mail that passes held mail is dealt with once, and stays in the order of its
// origin; held mail is acknowledged when that is over.
func TestPassingWhatIsHeld(t *testing.T) {
	skipIfShort(t)
	inWrongTime(t, 0, func(*client.ReceiverConfig) {}, func(p *provenInbox, clock *nodeClock) {
		p.forge = func(item *wire.Item) {
			if bytes.Contains(item.Transaction, []byte(`"n":4`)) {
				item.Proof = []byte(`{"relay":"another"}`)
			}
		}
		p.leaveNow(a, "0")
		p.leaveNow(named, "1")
		for i := range 1000 {
			p.leaveNow(a, fmt.Sprint(i+2))
		}
		p.leaveNow(named, "1002")
		clock.set(8 * day)
		rejected := 0
		for range 10 {
			require.ErrorIs(t, p.sync().Err, wire.ErrKeyNotValid)
			if rejected == 0 {
				rejected = len(p.refused())
			}
			require.Len(t, p.refused(), rejected)
			require.Len(t, p.taken(), 1001-rejected)
			require.Equal(t, 1002, p.left(), "but the first")
		}
		require.Equal(t, 111, rejected)
		p.leaveNow(a, "1003")
		clock.set(0)
		p.receiver.Sync(p.Context())
		require.Len(t, p.taken(), 1004-rejected)
		require.Zero(t, p.left())
		last := make(map[spec.ServerName]int64)
		for _, got := range p.taken() {
			require.Greater(t, got.EntryID, last[got.Origin])
			last[got.Origin] = got.EntryID
		}
	})
}

// No more than some answers pass held mail, and a handler that fails is passed by
// nothing.
func TestPassingIsBounded(t *testing.T) {
	skipIfShort(t)
	inWrongTime(t, 8*day, func(*client.ReceiverConfig) {}, func(p *provenInbox, _ *nodeClock) {
		p.leaveNow(named, "0")
		large := strings.Repeat("x", 1<<20) // four fill an answer
		for i := range 100 {
			p.leaveAs(a, nodeB, fmt.Sprint(i+1), fmt.Sprintf(`{"pdus":[{"n":%d}],"x":"%s"}`, i, large))
		}
		before := p.net.Asked(r1)
		require.ErrorIs(t, p.sync().Err, wire.ErrKeyNotValid)
		require.LessOrEqual(t, p.net.Asked(r1)-before, 18)
		require.Less(t, len(p.taken()), 70)
		require.Greater(t, len(p.taken()), 40)
	})
	inProvenInbox(t, nil, func(p *provenInbox) {
		broken := errors.New("the database is away")
		p.restart(func(_ *client.CallerConfig, c *client.ReceiverConfig) {
			c.Handle = func(context.Context, client.Received) error { return broken }
		})
		p.leaveNow(a, "1")
		p.leaveNow(named, "2")
		require.ErrorIs(t, p.sync().Err, broken)
		require.Equal(t, 2, p.left())
	})
}

// Held mail doesn't have the mail of others come later than from a relay that is
// polled.
func TestHeldMailDelaysNoOther(t *testing.T) {
	required := func(c *client.ReceiverConfig) { c.RequireProof = true }
	inWrongTime(t, 8*day, required, func(p *provenInbox, _ *nodeClock) {
		stop := p.run()
		p.leaveNow(named, "1")
		time.Sleep(client.DefaultKeyPatience / 2)
		p.leaveNow(a, "2")
		time.Sleep(2 * client.DefaultPollInterval)
		require.Len(t, p.taken(), 1)
		stop()
	})
}
