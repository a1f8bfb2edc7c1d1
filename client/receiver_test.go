package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
)

func TestReceiverDropsCopies(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.relay(r1)
		b.relay(r2)
		for i := range 5 {
			b.leave(fmt.Sprint(i), i, r1, r2)
		}
		b.leave("9", 9, r2)
		got := b.sync()
		require.NoError(t, got[0].Err)
		require.NoError(t, got[1].Err)
		require.Error(t, got[2].Err, "nobody there")
		require.Equal(t, 6, got[0].Handled+got[1].Handled)
		require.Equal(t, 5, got[0].Copies+got[1].Copies)
		handled := b.got()
		slices.Sort(handled)
		require.Equal(t, []string{"0", "1", "2", "3", "4", "9"}, handled)
		again := b.sync()
		require.Equal(t, client.Drained{Relay: r1}, again[0])
		require.Equal(t, client.Drained{Relay: r2}, again[1])
	})
}

// A relay that comes back late has only mail that was handled, and mail that wasn't.
func TestReceiverLateRelay(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.relay(r1)
		b.relay(r3)
		b.leave("1", 1, r1, r3)
		b.sync()
		b.leave("2", 2, r3)
		require.Equal(t, client.Drained{Relay: r3, Handled: 1}, b.sync()[2])
		require.Equal(t, []string{"1", "2"}, b.got())
	})
}

// Content that was sent twice on purpose is handled twice, through however
// many relays it comes.
func TestReceiverTwiceOnPurpose(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.relay(r1)
		b.relay(r2)
		b.leave("1", "typing", r1, r2)
		b.leave("2", "stopped", r1, r2)
		b.leave("3", "typing", r1, r2)
		require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r2))
		require.Len(t, b.receiver.Sync(b.Context()), 2)
		require.Equal(t, []string{"typing", "stopped", "typing"}, b.got())
		require.NoError(t, b.peers.AddRelays(b.Context(), nodeB, r2))
		require.Equal(t, 3, b.sync()[1].Copies)
		b.leave("4", "typing", r1, r2)
		b.sync()
		require.Len(t, b.got(), 4)
	})
}

func TestReceiverHandlerFails(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.relay(r1)
		b.relay(r2)
		for i := range 3 {
			b.leave(fmt.Sprint("a", i), 10+i, r1)
			b.leave(fmt.Sprint("b", i), 20+i, r2)
		}
		broken := errors.New("the homeserver is busy")
		b.fail = func(got client.Received) error {
			if got.Relay == r1 && strings.HasSuffix(string(got.Body), `{"n":11}]}`) {
				return broken
			}
			return nil
		}
		got := b.sync()
		require.ErrorIs(t, got[0].Err, broken)
		require.Equal(t, 1, got[0].Handled)
		require.Equal(t, client.Drained{Relay: r2, Handled: 3}, got[1])
		b.fail = nil
		require.Equal(t, client.Drained{Relay: r1, Handled: 2}, b.sync()[0])
		require.Len(t, b.got(), 6)
	})
}

// Mail that was handled and whose acknowledgement was lost comes again, and isn't
// handled again.
func TestReceiverLostAcknowledgement(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.relay(r1)
		b.leave("1", 1, r1)
		b.leave("2", "typing", r1)
		b.leave("3", "typing", r1)
		real := b.net.Host(r1)
		for lost := range 4 {
			asked := 0
			faulty := real
			faulty.Lose = func() (request, answer bool) { asked++; return asked == lost+2, false }
			b.net.Set(r1, faulty)
			b.sync()
		}
		b.net.Set(r1, real)
		require.NoError(t, b.sync()[0].Err)
		require.Equal(t, []string{"1", "typing", "typing"}, b.got())
	})
}

// While one relay's copy is being handled, the other's waits; if it fails, the
// other is handled.
func TestReceiverCopiesAtOnce(t *testing.T) {
	for _, fails := range []bool{false, true} {
		inInbox(t, func(b *inbox) {
			b.relay(r1)
			b.relay(r2)
			b.leave("1", 1, r1, r2)
			calls := 0
			b.fail = func(client.Received) error {
				calls++
				if fails && calls == 1 {
					return errors.New("no")
				}
				return nil
			}
			b.sync()
			require.Equal(t, []string{"1"}, b.got())
		})
	}
}

func TestReceiverRemembers(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.relay(r1)
		b.relay(r2)
		history, err := client.OpenHistory(b.Context(), b.mail, 10)
		require.NoError(t, err)
		b.start(history)
		b.leave("1", 1, r1, r2)
		b.net.Set(r2, relaytest.Host{})
		b.sync()
		require.NoError(t, b.peers.AddRelays(b.Context(), nodeB, r2))

		history, err = client.OpenHistory(b.Context(), b.mail, 10)
		require.NoError(t, err)
		b.start(history)
		b.relay(r2)
		b.leave("1", 1, r2)
		require.Equal(t, 1, b.sync()[1].Copies)
		require.Equal(t, []string{"1"}, b.got())

		for i := range 30 {
			b.leave(fmt.Sprint("m", i), 100+i, r1)
		}
		b.sync()
		notes, err := b.mail.Notes(b.Context(), "", "", 1000)
		require.NoError(t, err)
		require.Len(t, notes, 10, "it remembers no more than it may")
	})
}

// Mail that was handled while the node was closing isn't handled again when it is
// opened.
func TestReceiverClosesWhileHandling(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.relay(r1)
		b.leave("1", 1, r1)
		for range 2 {
			history, err := client.OpenHistory(b.Context(), b.mail, 0)
			require.NoError(t, err)
			b.start(history)
			ctx, cancel := context.WithCancel(b.Context())
			b.fail = func(client.Received) error { cancel(); return nil }
			b.receiver.Sync(ctx)
			cancel()
		}
		require.Equal(t, []string{"1"}, b.got())
	})
}

// A transaction that came directly isn't handled when a relay has it too, and
// the other way round.
func TestReceiverDirect(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.relay(r1)
		b.leave("1", 1, r1)
		direct := func(id gomatrixserverlib.TransactionID, number int, fail error) bool {
			body := fmt.Appendf(nil, `{"pdus":[{"n":%d}]}`, number)
			handled, err := b.receiver.Direct(b.Context(), a.ServerName, id, body, func(context.Context) error { return fail })
			require.ErrorIs(t, err, fail)
			return handled
		}
		require.False(t, direct("1", 1, errors.New("busy")))
		require.True(t, direct("1", 1, nil), "comes again after an error")
		require.False(t, direct("1", 1, nil), "a retry")
		require.Equal(t, 1, b.sync()[0].Copies)
		require.Empty(t, b.got())
		require.True(t, direct("2", 1, nil), "alike, and another")

		b.leave("3", 3, r1)
		require.Equal(t, 1, b.sync()[0].Handled)
		require.False(t, direct("3", 3, nil))
		require.False(t, direct("3", 3, nil))
		require.True(t, direct("4", 3, nil))
		for range 2 { // a body that can't be read was never seen
			for _, body := range []string{`{`, `{"edus":[]}`} {
				for _, fail := range []error{errors.New("busy"), nil} {
					times := 0
					handled, err := b.receiver.Direct(b.Context(), a.ServerName, "5", []byte(body), func(context.Context) error { times++; return fail })
					require.ErrorIs(t, err, fail)
					require.Equal(t, fail == nil, handled)
					require.Equal(t, 1, times)
				}
			}
		}
	})
}

func TestReceiverRun(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.relay(r1)
		b.net.Set(r2, relaytest.Host{Hangs: true})
		b.leave("1", 1, r1)
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan error)
		go func() { ended <- b.receiver.Run(ctx) }()
		time.Sleep(time.Second)
		require.Equal(t, []string{"1"}, b.got(), "at once")

		b.leave("2", 2, r1)
		time.Sleep(time.Second)
		require.Equal(t, []string{"1", "2"}, b.got(), "as the relay holds the answer")

		b.leave("3", 3, r1)
		b.receiver.Online()
		time.Sleep(time.Second)
		require.Equal(t, []string{"1", "2", "3"}, b.got(), "when told")

		b.relay(r3)
		b.leave("4", 4, r3)
		time.Sleep(time.Hour)
		require.Equal(t, []string{"1", "2", "3", "4"}, b.got(), "from a relay that comes late")
		require.Less(t, b.net.Asked(r2), 45, "a relay that hangs is left alone more and more")

		asked := b.net.Asked(r1)
		time.Sleep(time.Hour)
		require.Less(t, b.net.Asked(r1)-asked, 90, "each answer is held")
		require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r1))
		time.Sleep(2 * client.DefaultPollInterval)
		asked = b.net.Asked(r1)
		time.Sleep(time.Hour)
		require.Equal(t, asked, b.net.Asked(r1))
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
}

// Relays that misbehave harm nobody but themselves.
func TestReceiverOddRelays(t *testing.T) {
	const one = `{"transaction":{"origin":"a","pdus":[{"n":1}]},"entry_id":3,"entries_queued":true}`
	for name, c := range map[string]struct {
		host relaytest.Host
		want client.Drained
	}{
		"the same entry for ever":     {answers(200, one), client.Drained{Handled: 1}},
		"half an answer":              {answers(200, one[:30]), client.Drained{}},
		"an error":                    {answers(500, `{"errcode":"M_UNKNOWN","error":""}`), client.Drained{}},
		"a redirect":                  {answers(302, ``), client.Drained{}},
		"it hangs":                    {relaytest.Host{Hangs: true}, client.Drained{}},
		"mail that nobody can decode": {answers(200, `{"transaction":{"pdus":7},"entry_id":3,"entries_queued":true}`), client.Drained{Unreadable: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			inInbox(t, func(b *inbox) {
				b.net.Set(r1, c.host)
				b.relay(r2)
				b.leave("1", 1, r2)
				got := b.sync()
				require.Error(t, got[0].Err)
				got[0].Relay, got[0].Err = "", nil
				require.Equal(t, c.want, got[0])
				require.Equal(t, client.Drained{Relay: r2, Handled: 1}, got[1])
				if c.want.Handled > 0 {
					again := b.sync()[0]
					require.Zero(t, again.Handled, "it isn't handled again")
				}
			})
		})
	}
}

// Both syncs of one relay at once take their turns.
func TestReceiverTwoSyncs(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.relay(r1)
		for i := range 10 {
			b.leave(fmt.Sprint(i), i, r1)
		}
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() { b.receiver.Sync(b.Context()) })
		}
		all.Wait()
		require.Equal(t, []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}, b.got())
	})
}

// From a relay as they are deployed today.
func TestReceiverDeployedRelay(t *testing.T) {
	inInbox(t, func(b *inbox) {
		deployed := &deployedRelay{name: r1, first: 1}
		b.net.Set(r1, relaytest.Host{Handler: deployed})
		b.leave("1", 1, r1)
		b.leave("2", "m.typing", r1)
		require.Equal(t, client.Drained{Relay: r1, Handled: 2}, b.sync()[0])
		require.Equal(t, []string{"1", "m.typing"}, b.got())
		require.Empty(t, deployed.queue)
	})
}
