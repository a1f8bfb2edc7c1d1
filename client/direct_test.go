package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/wire"
)

// A look-up of keys and a handler that are cut short by a shutdown decide nothing.
func TestReceiverCutShort(t *testing.T) {
	for _, required := range []bool{false, true} {
		inProvenInbox(t, nil, func(p *provenInbox) {
			ctx, cancel := context.WithCancel(p.Context())
			p.restart(func(_ *client.CallerConfig, c *client.ReceiverConfig) {
				c.RequireProof, c.Handle, c.Rejected, c.KeyPatience = required, p.handle, p.reject, 1
				c.Keys = wire.HexKeys{Others: cutShort{p.keys, cancel}}
			})
			p.leaveAs(named, nodeB, "1", `{"pdus":[{"n":1}]}`)
			require.ErrorIs(t, p.receiver.Sync(ctx)[0].Err, context.Canceled)
			require.Empty(t, p.taken())
			require.Empty(t, p.refused())
			require.Equal(t, 1, p.left())
		})
	}
	inProvenInbox(t, nil, func(p *provenInbox) {
		ctx, cancel := context.WithCancel(p.Context())
		p.restart(func(_ *client.CallerConfig, c *client.ReceiverConfig) {
			c.Handle = func(ctx context.Context, got client.Received) error {
				if got.TransactionID == "2" {
					cancel()
				}
				return ctx.Err()
			}
		})
		for i := range 3 {
			p.leaveNow(a, fmt.Sprint(i+1))
		}
		d := p.receiver.Sync(ctx)[0]
		require.ErrorIs(t, d.Err, context.Canceled)
		require.Equal(t, 1, d.Handled)
		require.Equal(t, 3, p.left(), "2 isn't acknowledged, and nothing else can be now")
		require.Equal(t, client.Drained{Relay: r1, Handled: 2, Copies: 1}, p.sync())
	})
}

// cutShort is a key ring whose fetch ends with the process, which it keeps to itself.
type cutShort struct {
	*keyBook
	cancel context.CancelFunc
}

func (k cutShort) VerifyJSONs(ctx context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	k.cancel()
	return k.keyBook.VerifyJSONs(ctx, requests)
}

// The origin that a relay claims is told with every error.
func TestRejectedNamesTheOrigin(t *testing.T) {
	inProvenInbox(t, func(c *client.ReceiverConfig) { c.RequireProof = true }, func(p *provenInbox) {
		for i, forge := range []func(*wire.Item){
			func(item *wire.Item) { item.Proof = nil },
			func(item *wire.Item) { item.Proof = []byte("7") },
			func(item *wire.Item) { item.Transaction = []byte(`{"origin":"` + string(a.ServerName) + `","pdus":7}`) },
			func(item *wire.Item) {
				item.Transaction = []byte(`{"pdus":[]}`)
				item.Proof = (&wire.Proof{Relay: r1, Origin: a.ServerName}).JSON()
			},
		} {
			p.forge = forge
			p.leaveNow(a, fmt.Sprint(i))
			require.Equal(t, 1, p.sync().Rejected)
			require.Equal(t, a.ServerName, p.refused()[i].Origin)
		}
	})
}

// A breaking transport ends requests at an age.
type breaking struct {
	http.RoundTripper
	age           atomic.Int64 // nanoseconds; 0: never
	broken, asked atomic.Int64
}

func (b *breaking) RoundTrip(r *http.Request) (*http.Response, error) {
	b.asked.Add(1)
	age := time.Duration(b.age.Load())
	if age == 0 {
		return b.RoundTripper.RoundTrip(r)
	}
	ctx, cancel := context.WithTimeout(r.Context(), age)
	defer cancel()
	response, err := b.RoundTripper.RoundTrip(r.WithContext(ctx))
	if ctx.Err() != nil && r.Context().Err() == nil {
		b.broken.Add(1)
		return nil, errors.New("the connection was idle for too long")
	}
	return response, err
}

// Connections that break when they are idle for 15 s have answers held for less.
func TestHoldsThatBreak(t *testing.T) {
	long := time.Duration(seeds.Rounds(24, 3)) * time.Hour
	for _, age := range []time.Duration{7 * time.Second, 15 * time.Second, 30 * time.Second} {
		inInbox(t, func(b *inbox) {
			require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r2, r3))
			b.relay(r1)
			idle := &breaking{RoundTripper: b.net}
			idle.age.Store(int64(age))
			b.restart(func(c *client.CallerConfig, _ *client.ReceiverConfig) { c.Transport = idle })
			stop := b.run()
			time.Sleep(long)
			require.EqualValues(t, 2, idle.broken.Load())
			require.InDelta(t, long/(age*3/4), idle.asked.Load(), 100, "it waits")
			b.leave("1", 1, r1)
			time.Sleep(time.Second)
			require.Equal(t, []string{"1"}, b.got())

			idle.age.Store(0) // another network
			b.receiver.Online()
			time.Sleep(time.Minute)
			before := idle.asked.Load()
			time.Sleep(time.Hour)
			require.InDelta(t, 72, idle.asked.Load()-before, 2, "as long as at first")
			stop()
		})
	}
}
