package client_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/wire"
)

const (
	unreadable = `{"pdus":7}`
	endless    = 1 << 40 // entries
)

func sameBody(body string) func(int64) string { return func(int64) string { return body } }

// few has a relay answer a few at a time.
func few(_ http.ResponseWriter, a *ask) bool {
	a.Limit = min(a.Limit, 10)
	return false
}

// onePer has a relay answer one at a time.
func onePer(_ http.ResponseWriter, a *ask) bool {
	a.Limit = min(a.Limit, 1)
	return false
}

// says has a relay answer just this, where it applies.
func says(answer string, where func(*ask) bool) func(http.ResponseWriter, *ask) bool {
	return func(w http.ResponseWriter, a *ask) bool {
		if where(a) {
			_, _ = io.WriteString(w, answer)
		}
		return where(a)
	}
}

func always(*ask) bool    { return true }
func waiting(a *ask) bool { return a.Timeout > 0 }

// Relays that have nothing but junk, or nothing, are asked less and less. Others
// notice nothing of it.
func TestJunkSlowsItsRelayDown(t *testing.T) {
	skipIfShort(t)
	required := func(_ *client.CallerConfig, c *client.ReceiverConfig) { c.Keys, c.RequireProof = wire.HexKeys{}, true }
	for name, c := range map[string]struct {
		relay  *scripted
		change func(*client.CallerConfig, *client.ReceiverConfig)
	}{
		"unreadable":             {relay: &scripted{last: endless, body: sameBody(unreadable), odd: few}},
		"unreadable, one by one": {relay: &scripted{last: endless, body: sameBody(unreadable), odd: onePer}},
		"rejected":               {relay: &scripted{last: endless, odd: few}, change: required},
		"rejected, one by one":   {relay: &scripted{last: endless, odd: onePer}, change: required},
		"the same for ever":      {relay: &scripted{last: endless, body: sameBody(`{"origin":"a","pdus":[{"n":1}]}`), odd: few}},
		"the same, one by one":   {relay: &scripted{last: endless, body: sameBody(`{"origin":"a","pdus":[{"n":1}]}`), odd: onePer}},
		"no batches": {relay: &scripted{last: endless, body: sameBody(unreadable), odd: func(_ http.ResponseWriter, a *ask) bool {
			a.Query = wire.Query{}
			return false
		}}},
		"empty in between": {relay: &scripted{last: endless, body: sameBody(unreadable), odd: func(w http.ResponseWriter, a *ask) bool {
			a.Limit = 1
			return says(wire.EmptyBatch, func(a *ask) bool { return a.number%2 == 0 })(w, a)
		}}},
		"only to a request that waits": {relay: &scripted{last: endless, body: sameBody(unreadable), odd: func(w http.ResponseWriter, a *ask) bool {
			a.Limit = 1
			return says(wire.EmptyBatch, func(a *ask) bool { return !waiting(a) })(w, a)
		}}},
		"fails now and then": {relay: &scripted{last: endless, body: sameBody(unreadable), odd: func(w http.ResponseWriter, a *ask) bool {
			a.Limit = 1
			return says(`{`, func(a *ask) bool { return a.number%10 == 0 })(w, a)
		}}},
		"nothing, at once": {relay: &scripted{}},
		"one entry for ever": {relay: &scripted{odd: says(
			`{"transaction":{"origin":"a","pdus":[{"n":1}]},"entry_id":3,"entries_queued":true,"more":[]}`, always)}},
		"one entry for ever to a request that waits": {relay: &scripted{odd: says(
			`{"transaction":{"origin":"a","pdus":[{"n":1}]},"entry_id":3,"entries_queued":true,"more":[]}`, waiting)}},
		"without a transaction":                         {relay: &scripted{odd: says(`{"entries_queued":true,"entry_id":3,"more":[]}`, always)}},
		"without a transaction to a request that waits": {relay: &scripted{odd: says(`{"entries_queued":true,"entry_id":3,"more":[]}`, waiting)}},
		"IDs that fall": {relay: &scripted{odd: func(w http.ResponseWriter, a *ask) bool {
			_, _ = fmt.Fprintf(w, `{"transaction":%s,"entry_id":%d,"entries_queued":true,"more":[]}`, unreadable, endless-a.number)
			return true
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inInbox(t, func(b *inbox) {
				if c.change != nil {
					b.restart(c.change)
				}
				b.scripted(r1, c.relay)
				b.relay(r2)
				require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r3))
				stop := b.run()
				time.Sleep(10 * time.Second)
				require.Less(t, b.net.Asked(r1), 300, "in 10 seconds")
				for range 6 {
					if number := int(time.Now().Unix()); c.change == nil { // else a's mail here is unproven, too
						b.leave("x", number, r2)
						time.Sleep(time.Second)
						require.Contains(t, b.got(), strconv.Itoa(number), "other relays notice nothing")
					}
					time.Sleep(time.Hour)
				}
				before := b.net.Asked(r1)
				t.Log(before, "requests in 6 hours")
				time.Sleep(time.Hour)
				// Pauses are 7.5 to 15 minutes by now, so there may be 8 times 65 requests.
				require.LessOrEqual(t, b.net.Asked(r1)-before, 8*65, "in one more")
				stop()
			})
		})
	}
}

// Mail that lies behind junk comes after a pause for each 32 answers of it.
func TestJunkBeforeMail(t *testing.T) {
	for junk, within := range map[int64]time.Duration{
		3_000:   time.Second, // no pause, but some answers
		20_000:  3 * time.Second,
		100_000: (1 + 2 + 4 + 8 + 16 + 32 + 5) * time.Second,
	} {
		inInbox(t, func(b *inbox) {
			require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r2, r3))
			s := b.scripted(r1, &scripted{last: junk + 1, body: func(id int64) string {
				if id <= junk {
					return unreadable
				}
				return `{"origin":"a","pdus":[{"n":1}]}`
			}})
			stop := b.run()
			time.Sleep(within)
			require.Equal(t, []string{"1"}, b.got(), "behind %d", junk)
			require.Equal(t, junk+1, s.gone, "all of it is acknowledged")
			stop()
		})
	}
}

// Mail that is handled makes up for the junk before it.
func TestJunkIsMadeUpFor(t *testing.T) {
	const row = 32 * 8
	inInbox(t, func(b *inbox) {
		require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r2, r3))
		b.scripted(r1, &scripted{last: 3 * row, odd: onePer, body: func(id int64) string {
			if id%row != 0 {
				return unreadable
			}
			return fmt.Sprintf(`{"origin":"a","pdus":[{"n":%d}]}`, id/row)
		}})
		var at []time.Time
		b.fail = func(client.Received) error {
			at = append(at, time.Now())
			return nil
		}
		stop := b.run()
		time.Sleep(time.Hour)
		require.Equal(t, upTo(1, 3), b.got())
		for i := range 2 { // (1 + 2 + ... + 64) s at most; without mail before it, it would be twice that and more each time
			require.InDelta(t, 95, at[i+1].Sub(at[i]).Seconds(), 50)
		}
		stop()
	})
}

// A little junk now and then doesn't add up.
func TestJunkIsForgotten(t *testing.T) {
	skipIfShort(t)
	inInbox(t, func(b *inbox) {
		b.restart(func(_ *client.CallerConfig, c *client.ReceiverConfig) { c.Wait = -1 })
		require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r2, r3))
		s := b.scripted(r1, &scripted{body: sameBody(unreadable)})
		stop := b.run()
		const hours = 10 * 32
		for range hours {
			s.add()
			time.Sleep(time.Hour)
		}
		before := b.net.Asked(r1)
		time.Sleep(time.Hour)
		require.Greater(t, b.net.Asked(r1)-before, 40, "it is polled as ever")
		stop()
	})
}

// The copies that a second relay has aren't junk, but they are if it brings them
// again.
func TestJunkIsNoCopy(t *testing.T) {
	inInbox(t, func(b *inbox) {
		require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r3))
		const mails = 40 * 2
		body := func(id int64) string { return fmt.Sprintf(`{"origin":"a","pdus":[{"n":%d}]}`, id%mails) }
		b.scripted(r1, &scripted{last: mails, odd: onePer, body: body})
		second := b.scripted(r2, &scripted{odd: onePer, body: body})
		require.Equal(t, client.Drained{Relay: r1, Handled: mails}, b.receiver.Sync(b.Context())[0])
		second.last = mails
		require.Equal(t, client.Drained{Relay: r2, Copies: mails}, b.receiver.Sync(b.Context())[1])
		second.last = 2 * mails
		again := b.receiver.Sync(b.Context())[1]
		require.ErrorContains(t, again.Err, "of no use")
		require.Equal(t, 32, again.Handled, "without an ID it may be meant")
	})
}

// A relay can't fill the log, and rejected mail has the origin that it claims.
func TestJunkInTheLog(t *testing.T) {
	inInbox(t, func(b *inbox) {
		var log bytes.Buffer
		var origins []spec.ServerName
		b.restart(func(_ *client.CallerConfig, c *client.ReceiverConfig) {
			c.Logger, c.Keys, c.RequireProof = slog.New(slog.NewTextHandler(&log, nil)), wire.HexKeys{}, true
			c.Rejected = func(_ context.Context, got client.Received, _ error) { origins = append(origins, got.Origin) }
		})
		require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r2, r3))
		b.scripted(r1, &scripted{last: 1000})
		require.Equal(t, client.Drained{Relay: r1, Rejected: 1000}, b.receiver.Sync(b.Context())[0])
		require.Equal(t, 1, strings.Count(log.String(), "\n"), log.String())
		require.Contains(t, log.String(), "origin=a ")
		require.Equal(t, slices.Repeat([]spec.ServerName{"a"}, 1000), origins)
	})
}
