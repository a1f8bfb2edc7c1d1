package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// fill puts that many transactions for b into a relay's store, each with its
// number for a PDU.
func (b *inbox) fill(kept *memory.Store, from, to int) {
	b.Helper()
	for i := from; i <= to; i++ {
		body := fmt.Appendf(nil, `{"origin":"a","pdus":[{"n":%d}]}`, i)
		content, err := wire.ReadContent(body)
		require.NoError(b, err)
		_, err = kept.Put(b.Context(), store.Mail{Destination: nodeB, Origin: "a", TransactionID: "x", Digest: content.Digest, Body: body}, store.Limits{})
		require.NoError(b, err)
	}
}

// filled puts a real relay with that much mail on the network as r1.
func (b *inbox) filled(count int) *memory.Store {
	kept := memory.New(memory.Options{})
	b.relay(r1, func(c *relay.Config) { c.Store = kept })
	b.fill(kept, 1, count)
	return kept
}

func (b *inbox) left(kept *memory.Store) int {
	usage, err := kept.Usage(b.Context(), nodeB)
	require.NoError(b, err)
	return int(usage.Entries)
}

// A thousand transactions take a handful of requests, of more and more.
func TestBatchesAreFew(t *testing.T) {
	inOneInbox(t, func(b *inbox) {
		kept := b.filled(1000)
		require.Equal(t, client.Drained{Relay: r1, Handled: 1000}, b.sync()[0])
		require.Equal(t, upTo(1, 1000), b.got())
		require.LessOrEqual(t, b.net.Asked(r1), 6)
		require.Zero(t, b.left(kept))
	})
	inOneInbox(t, func(b *inbox) {
		s := b.scripted(r1, &scripted{last: 2000})
		require.NoError(t, b.sync()[0].Err)
		require.Equal(t, []int{100, 200, 400, 500, 500, 500, 500}, s.limits())
		require.Equal(t, ask{3, 100, wire.Query{Limit: 400, After: 300}}, s.asked[2], "the first batch is done, the second isn't")
	})
}

// The next batch is asked for while one is handled, and no more than that.
func TestBatchesAhead(t *testing.T) {
	inOneInbox(t, func(b *inbox) {
		s := b.scripted(r1, &scripted{last: 1000})
		most, early := 0, false
		b.fail = func(client.Received) error {
			time.Sleep(20 * time.Millisecond)
			most = max(most, s.held())
			early = early || len(b.handled) == 99 && b.net.Asked(r1) == 2
			return nil
		}
		began := time.Now()
		require.NoError(t, b.sync()[0].Err)
		require.Equal(t, upTo(1, 1000), b.got())
		require.True(t, early, "before the first batch is done, there is one more request, and one only")
		require.LessOrEqual(t, most, 400+500, "two answers")
		require.Less(t, time.Since(began), 1000*20*time.Millisecond+5*20*time.Millisecond, "hardly any time is spent waiting")
	})
}

// Entries that are too long to be answered at once are asked for in smaller pieces.
func TestBatchesShrink(t *testing.T) {
	inOneInbox(t, func(b *inbox) {
		b.restart(func(c *client.CallerConfig, _ *client.ReceiverConfig) { c.MaxAnswerBytes = 20 << 10 })
		s := b.scripted(r1, &scripted{last: 50, size: 1000})
		require.Equal(t, client.Drained{Relay: r1, Handled: 50}, b.sync()[0])
		require.Equal(t, upTo(1, 50), b.got())
		require.Equal(t, []int{100, 25, 6, 12}, s.limits()[:4])
		require.Less(t, len(s.limits()), 20)
	})
	inOneInbox(t, func(b *inbox) { // one that is too long by itself stays, and those before it are done
		b.restart(func(c *client.CallerConfig, _ *client.ReceiverConfig) { c.MaxAnswerBytes = 500 })
		s := b.scripted(r1, &scripted{last: 5})
		s.odd = func(w http.ResponseWriter, a *ask) bool {
			if max(s.gone, a.After)+int64(a.Limit) < 4 {
				return false
			}
			_, _ = io.WriteString(w, strings.Repeat("x", 600))
			return true
		}
		require.ErrorContains(t, b.sync()[0].Err, "longer")
		require.Equal(t, upTo(1, 3), b.got())
		require.EqualValues(t, 3, s.gone)
	})
}

// A batch of large transactions isn't followed by a larger one.
func TestBatchesOfLargeOnes(t *testing.T) {
	inOneInbox(t, func(b *inbox) {
		s := b.scripted(r1, &scripted{last: 250, size: 20_000})
		require.NoError(t, b.sync()[0].Err)
		require.Equal(t, []int{100, 100, 100, 100, 100}, s.limits())
		require.EqualValues(t, 250, s.gone)
	})
}

// When the handler fails, those before are acknowledged, and the rest comes
// again, in order: in the middle of a batch, and at the beginning of one.
func TestBatchesHandlerFails(t *testing.T) {
	for _, at := range []int{1, 2, 100, 101, 102, 300, 301, 450} {
		inOneInbox(t, func(b *inbox) {
			kept := b.filled(450)
			broken := errors.New("the homeserver is busy")
			b.fail = func(client.Received) error {
				if len(b.handled) == at-1 {
					return broken
				}
				return nil
			}
			for range 2 {
				require.ErrorIs(t, b.sync()[0].Err, broken)
				require.Equal(t, 450-(at-1), b.left(kept), "at %d", at)
			}
			b.fail = nil
			require.Equal(t, client.Drained{Relay: r1, Handled: 450 - (at - 1)}, b.sync()[0])
			require.Equal(t, upTo(1, 450), b.got())
			require.Zero(t, b.left(kept))
		})
	}
}

// When the node closes, handled mail isn't handled again.
func TestBatchesContextEnds(t *testing.T) {
	inOneInbox(t, func(b *inbox) {
		kept := b.filled(250)
		ctx, cancel := context.WithCancel(b.Context())
		b.fail = func(client.Received) error {
			if len(b.handled) == 150 {
				cancel()
				return ctx.Err()
			}
			return nil
		}
		require.ErrorIs(t, b.receiver.Sync(ctx)[0].Err, context.Canceled)
		b.fail = nil
		require.NoError(t, b.sync()[0].Err)
		require.Equal(t, upTo(1, 250), b.got())
		require.Zero(t, b.left(kept))
	})
}

// Relays that are in the way of their own batches still get rid of their mail.
func TestBatchesOddRelays(t *testing.T) {
	for name, odd := range map[string]func(s *scripted, w http.ResponseWriter, a *ask) bool{
		"skips nothing": func(_ *scripted, _ http.ResponseWriter, a *ask) bool {
			a.After = 0
			return false
		},
		"gives fewer than asked for": func(_ *scripted, _ http.ResponseWriter, a *ask) bool {
			a.Limit = min(a.Limit, 7)
			return false
		},
		"gives more than asked for": func(_ *scripted, _ http.ResponseWriter, a *ask) bool {
			a.Limit *= 2
			return false
		},
		"knows batches no longer": func(_ *scripted, _ http.ResponseWriter, a *ask) bool {
			if a.number > 1 {
				a.Query = wire.Query{}
			}
			return false
		},
		"knows batches now and then": func(_ *scripted, _ http.ResponseWriter, a *ask) bool {
			if a.number%3 > 0 {
				a.Query = wire.Query{}
			}
			return false
		},
		"says there is nothing behind": func(s *scripted, w http.ResponseWriter, a *ask) bool {
			if a.After > 0 {
				_, _ = io.WriteString(w, wire.EmptyAnswer)
			}
			return a.After > 0
		},
	} {
		t.Run(name, func(t *testing.T) {
			inOneInbox(t, func(b *inbox) {
				s := b.scripted(r1, &scripted{last: 450})
				s.odd = func(w http.ResponseWriter, a *ask) bool { return odd(s, w, a) }
				require.Equal(t, client.Drained{Relay: r1, Handled: 450}, b.sync()[0])
				require.Equal(t, upTo(1, 450), b.got())
				require.EqualValues(t, 450, s.gone)
			})
		})
	}
}

// Answers without sense end the sync, and mail that was handled before them is
// acknowledged, so that it doesn't come again each time.
func TestBatchesBrokenAnswers(t *testing.T) {
	for name, broken := range map[string]string{
		"half an answer":     `{"transaction":{"pdus":[`,
		"out of order":       `{"transaction":{"pdus":[{"n":1}]},"entry_id":300,"entries_queued":true,"more":[{"transaction":{"pdus":[{"n":2}]},"entry_id":299}]}`,
		"one twice":          `{"transaction":{"pdus":[{"n":1}]},"entry_id":300,"entries_queued":true,"more":[{"transaction":{"pdus":[{"n":2}]},"entry_id":300}]}`,
		"without entries":    `{"transaction":{"pdus":[{"n":1}]},"entries_queued":true,"more":[]}`,
		"without a body":     `{"transaction":null,"entry_id":300,"entries_queued":true,"more":[]}`,
		"nothing":            ``,
		"more isn't a list":  `{"transaction":{"pdus":[{"n":1}]},"entry_id":300,"entries_queued":true,"more":7}`,
		"one back in time":   `{"transaction":{"origin":"a","pdus":[{"n":5}]},"entry_id":5,"entries_queued":true,"more":[]}`,
		"the last once more": `{"transaction":{"origin":"a","pdus":[{"n":100}]},"entry_id":100,"entries_queued":true,"more":[]}`,
	} {
		t.Run(name, func(t *testing.T) {
			inOneInbox(t, func(b *inbox) {
				s := b.scripted(r1, &scripted{last: 450})
				s.odd = func(w http.ResponseWriter, a *ask) bool {
					if max(s.gone, a.After) < 100 {
						return false
					}
					_, _ = io.WriteString(w, broken)
					return true
				}
				got := b.sync()[0]
				require.Error(t, got.Err)
				require.Equal(t, 100, got.Handled)
				require.EqualValues(t, 100, s.gone)
				require.Less(t, len(s.asked), 5)
				s.odd = nil
				require.Equal(t, client.Drained{Relay: r1, Handled: 350}, b.sync()[0])
				require.Equal(t, upTo(1, 450), b.got())
			})
		})
	}
}

// A relay that asks for time isn't bothered with an acknowledgement.
func TestBatchesAskedToWait(t *testing.T) {
	inOneInbox(t, func(b *inbox) {
		s := b.scripted(r1, &scripted{last: 450})
		s.odd = func(w http.ResponseWriter, a *ask) bool {
			if a.number > 1 {
				(&wire.Error{Status: 429, Code: "M_LIMIT_EXCEEDED", RetryAfter: time.Minute}).Write(w)
			}
			return a.number > 1
		}
		require.Error(t, b.sync()[0].Err)
		require.Len(t, s.asked, 2)
	})
}

// An entry for ever, in a batch: nothing is handled twice, and it ends.
func TestBatchesSameForEver(t *testing.T) {
	inOneInbox(t, func(b *inbox) {
		b.net.Set(r1, answers(200, `{"transaction":{"origin":"a","pdus":[{"n":1}]},"entry_id":3,"entries_queued":true,"more":[{"transaction":{"origin":"a","pdus":[{"n":2}]},"entry_id":4}]}`))
		for range 3 {
			require.ErrorContains(t, b.sync()[0].Err, "after 4")
		}
		require.Equal(t, []string{"1", "2"}, b.got())
		require.Less(t, b.net.Asked(r1), 10)
	})
}

// A relay that answers for ever costs two answers of memory.
func TestBatchesAreBounded(t *testing.T) {
	inOneInbox(t, func(b *inbox) {
		s := b.scripted(r1, &scripted{last: 1 << 40, size: 100})
		most := 0
		ctx, cancel := context.WithCancel(b.Context())
		b.fail = func(client.Received) error {
			if most = max(most, s.held()); len(b.handled) == 5000 {
				cancel()
			}
			return nil
		}
		require.Error(t, b.receiver.Sync(ctx)[0].Err)
		require.LessOrEqual(t, most, 2*500)
	})
}

// A deployed relay, which gives one at a time, is polled.
func TestBatchesDeployedRelay(t *testing.T) {
	inOneInbox(t, func(b *inbox) {
		require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r2, r3))
		deployed := &deployedRelay{name: r1, first: 1}
		b.net.Set(r1, relaytest.Host{Handler: deployed})
		for i := range 20 {
			b.leave(fmt.Sprint(i), i, r1)
		}
		before := b.net.Asked(r1)
		stop := b.run()
		time.Sleep(time.Second)
		require.Equal(t, upTo(0, 19), b.got())
		require.Equal(t, before+21, b.net.Asked(r1))
		for i := 20; i < 30; i++ {
			b.leave(fmt.Sprint(i), i, r1)
			time.Sleep(2 * client.DefaultPollInterval)
			require.Len(t, b.got(), i+1)
		}
		before = b.net.Asked(r1)
		time.Sleep(time.Hour)
		require.InDelta(t, 60, b.net.Asked(r1)-before, 20)
		stop()
	})
}

// run runs the receiver; stop requires that it ends when it should.
func (b *inbox) run() (stop func()) {
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.receiver.Run(ctx) }()
	return func() {
		b.Helper()
		began := time.Now()
		cancel()
		require.ErrorIs(b, <-ended, context.Canceled)
		require.Zero(b, time.Since(began))
	}
}
