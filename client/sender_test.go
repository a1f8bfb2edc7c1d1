package client_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
)

// A world is node a, which sends to b through relays r1, r2 and r3 on a
// network in memory. It lives in simulated time.
type world struct {
	*testing.T
	net    *relaytest.Network
	peers  *client.Peers
	sender *client.Sender
}

var r1, r2, r3 = spec.ServerName("r1"), spec.ServerName("r2"), spec.ServerName("r3")

func inWorld(t *testing.T, change func(*client.SenderConfig), run func(*world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, net: relaytest.NewNetwork(), peers: client.NewPeers()}
		caller, err := client.NewCaller(client.CallerConfig{Identity: a.SigningIdentity, Transport: w.net})
		require.NoError(t, err)
		config := client.SenderConfig{Caller: caller, Peers: w.peers, Logger: slog.New(slog.DiscardHandler)}
		if change != nil {
			change(&config)
		}
		w.sender, err = client.NewSender(config)
		require.NoError(t, err)
		defer func() { require.NoError(t, w.sender.Close()); require.NoError(t, w.sender.Close()) }()
		require.NoError(t, w.peers.AddRelays(t.Context(), b.ServerName, r3, r1, r2))
		run(w)
	})
}

// answers is a server that gives one answer to everything.
func answers(status int, body string) relaytest.Host {
	return relaytest.Host{Latency: 10 * time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})}
}

var (
	takes    = answers(200, `{}`)
	tooLarge = answers(413, `{"errcode":"M_TOO_LARGE","error":""}`)
)

func (w *world) relays(hosts ...relaytest.Host) {
	for i, relay := range []spec.ServerName{r1, r2, r3} {
		w.net.Set(relay, hosts[i])
	}
}

func (w *world) send(id string) (client.Outcome, error) {
	return w.sender.Send(w.Context(), transaction(w.T, id))
}

func verdicts(o client.Outcome) string {
	all := []string{o.Destination.Verdict.String()}
	for _, a := range o.Relays {
		all = append(all, a.Verdict.String())
	}
	return strings.Join(all, ", ")
}

// refusal requires that sending failed, with the fields of the error.
func refusal(t *testing.T, err error) *client.SendError {
	t.Helper()
	var e *client.SendError
	require.ErrorAs(t, err, &e)
	require.NotEmpty(t, e.Error())
	return e
}

func TestSenderDirect(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.relays(takes, takes, takes)
		w.net.Set(b.ServerName, takes)
		o, err := w.send("1")
		require.NoError(t, err)
		require.True(t, o.Delivered())
		require.False(t, o.Relayed())
		require.Zero(t, w.net.Asked(r1), "no relay is asked while the destination answers")
	})
}

func TestSenderFallsBackToAllRelays(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.relays(takes, takes, takes)
		o, err := w.send("1")
		require.NoError(t, err)
		require.True(t, o.Relayed())
		require.True(t, w.peers.Offline(b.ServerName))
		require.NoError(t, w.sender.Close())
		for _, relay := range []spec.ServerName{r1, r2, r3} {
			require.Equal(t, 1, w.net.Asked(relay))
		}
	})
}

func TestSenderOnlineAgain(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.relays(takes, takes, takes)
		_, err := w.send("1")
		require.NoError(t, err)
		w.net.Set(b.ServerName, takes)
		o, err := w.send("2")
		require.NoError(t, err)
		require.True(t, o.Delivered(), "each transaction is tried directly once more")
		require.False(t, w.peers.Offline(b.ServerName))
	})
}

func TestSenderAttemptsBeforeOffline(t *testing.T) {
	inWorld(t, func(c *client.SenderConfig) { c.AttemptsBeforeOffline = 3 }, func(w *world) {
		w.relays(takes, takes, takes)
		for range 2 {
			_, err := w.send("1")
			require.False(t, refusal(t, err).Refused)
			require.False(t, w.peers.Offline(b.ServerName))
		}
		require.Zero(t, w.net.Asked(r1))
		o, err := w.send("1")
		require.NoError(t, err)
		require.True(t, o.Relayed())

		// A success in between starts the count anew.
		w.net.Set(b.ServerName, takes)
		_, err = w.send("2")
		require.NoError(t, err)
		w.net.Set(b.ServerName, relaytest.Host{})
		_, err = w.send("3")
		require.Error(t, err)
		require.False(t, w.peers.Offline(b.ServerName))
	})
}

// A dead, slow or hanging relay delays the success of another by nothing.
func TestSenderFirstRelayWins(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.relays(relaytest.Host{Hangs: true}, takes, relaytest.Host{})
		w.net.Set(b.ServerName, relaytest.Host{})
		start := time.Now()
		o, err := w.send("1")
		require.NoError(t, err)
		require.Equal(t, 20*time.Millisecond, time.Since(start), "the way to the relay and back")
		require.Equal(t, "unreachable, pending, delivered, unreachable", verdicts(o))
	})
}

// The others go on in the background, and their back-off is remembered.
func TestSenderBackground(t *testing.T) {
	inWorld(t, func(c *client.SenderConfig) { c.RelayBackoff.First = time.Minute }, func(w *world) {
		var served atomic.Int32
		slow := relaytest.Host{Latency: 5 * time.Second, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) })}
		w.relays(takes, slow, relaytest.Host{Hangs: true})
		_, err := w.send("1")
		require.NoError(t, err)
		require.Zero(t, served.Load())
		time.Sleep(11 * time.Second)
		require.EqualValues(t, 1, served.Load())
		time.Sleep(client.DefaultRelayTimeout)
		o, err := w.send("2")
		require.NoError(t, err)
		require.Equal(t, client.Untried, o.Relays[2].Verdict, "it hung, and is left alone for now")
	})
}

// An attempt over the bound isn't let run.
func TestSenderBackgroundIsBounded(t *testing.T) {
	inWorld(t, func(c *client.SenderConfig) { c.MaxBackground = 1 }, func(w *world) {
		var ended atomic.Int32
		w.relays(takes, relaytest.Host{}, relaytest.Host{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			ended.Add(1)
		})})
		for i := range 5 {
			_, err := w.send(strconv.Itoa(i))
			require.NoError(t, err)
		}
		synctest.Wait()
		require.EqualValues(t, 4, ended.Load())
		require.NoError(t, w.sender.Close())
		require.EqualValues(t, 5, ended.Load(), "Close ends the rest and waits for it")
	})
}

func TestSenderAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		destination relaytest.Host
		relays      [3]relaytest.Host
		want        string
		check       func(*testing.T, *client.SendError) // nil: success
	}{
		"the destination refuses": {answers(400, `{"errcode":"M_BAD_JSON","error":""}`), [3]relaytest.Host{takes, takes, takes}, "refused",
			func(t *testing.T, e *client.SendError) { require.True(t, e.Refused) }},
		"too large for the destination": {tooLarge, [3]relaytest.Host{takes, takes, takes}, "refused",
			func(t *testing.T, e *client.SendError) { require.True(t, e.Refused) }},
		"the destination asks for time": {answers(429, `{"errcode":"M_LIMIT_EXCEEDED","error":"","retry_after_ms":7000}`), [3]relaytest.Host{takes, takes, takes}, "later",
			func(t *testing.T, e *client.SendError) {
				require.False(t, e.Refused)
				require.Equal(t, 7*time.Second, e.RetryAfter)
			}},
		"a proxy without a destination": {answers(502, `<html>`), [3]relaytest.Host{takes, {}, {}}, "later, delivered, *, *", nil},
		"two are of no use":             {relaytest.Host{}, [3]relaytest.Host{answers(404, `{}`), answers(403, `{}`), {Latency: time.Second, Handler: takes.Handler}}, "unreachable, no use, no use, delivered", nil},
		"half an answer":                {relaytest.Host{}, [3]relaytest.Host{answers(500, `{"errcode":"M_UNK`), takes, answers(200, `<html>`)}, "unreachable, *, delivered, *", nil},
		"answers that are no homeserver's": {answers(400, `{"message":"Unrecognised server name"}`), [3]relaytest.Host{answers(200, `<html>`), answers(200, ``), answers(400, `<html>`)},
			"unreachable, unreachable, unreachable, unreachable", func(t *testing.T, e *client.SendError) { require.False(t, e.Refused || e.RelaysRefused) }},
		"all relays refuse": {relaytest.Host{}, [3]relaytest.Host{answers(400, `{"errcode":"M_BAD_JSON"}`), tooLarge, answers(400, `{"errcode":"M_NOT_JSON"}`)}, "unreachable, refused, refused, refused",
			func(t *testing.T, e *client.SendError) {
				require.False(t, e.Refused, "the destination may still take it")
				require.True(t, e.RelaysRefused)
			}},
		"all fail": {relaytest.Host{}, [3]relaytest.Host{answers(500, ``), answers(429, `{"retry_after_ms":60000}`), {}}, "unreachable, later, later, unreachable",
			func(t *testing.T, e *client.SendError) {
				require.False(t, e.Refused)
				require.False(t, e.RelaysRefused)
				require.Positive(t, e.RetryAfter)
				require.LessOrEqual(t, e.RetryAfter, time.Second, "when the first is to be tried again")
			}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				w.net.Set(b.ServerName, c.destination)
				w.relays(c.relays[:]...)
				o, err := w.send("1")
				got := strings.Split(verdicts(o), ", ")
				for i, want := range strings.Split(c.want, ", ") {
					if want != "*" {
						require.Equal(t, want, got[i], got)
					}
				}
				if c.check == nil {
					require.NoError(t, err)
					return
				}
				c.check(t, refusal(t, err))
			})
		})
	}
}

// A relay that fails is asked again later and later; one that works again is
// used at once when its time has come.
func TestSenderBacksOff(t *testing.T) {
	inWorld(t, func(c *client.SenderConfig) { c.RelayBackoff = client.Backoff{First: time.Minute, Most: time.Hour} }, func(w *world) {
		require.NoError(t, w.peers.RemoveRelays(w.Context(), b.ServerName, r2, r3))
		for range 240 {
			_, err := w.send("1")
			_ = refusal(t, err)
			time.Sleep(time.Minute)
		}
		asked := w.net.Asked(r1)
		require.Greater(t, asked, 5)
		require.Less(t, asked, 20)
		w.net.Set(r1, takes)
		o, err := w.send("1")
		if err != nil { // unless its time has come just now
			time.Sleep(refusal(t, err).RetryAfter)
			o, err = w.send("1")
		}
		require.NoError(t, err)
		require.True(t, o.Relayed())
	})
}

func TestSenderWithoutRelays(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		require.NoError(t, w.peers.RemoveRelays(w.Context(), b.ServerName, r1, r2, r3))
		_, err := w.send("1")
		require.False(t, refusal(t, err).RelaysRefused)
	})
}

func TestSenderTimeoutsAndContext(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.relays(relaytest.Host{Hangs: true}, relaytest.Host{Hangs: true}, relaytest.Host{Hangs: true})
		w.net.Set(b.ServerName, relaytest.Host{Hangs: true})
		start := time.Now()
		_, err := w.send("1")
		_ = refusal(t, err)
		require.Equal(t, client.DefaultDirectTimeout+client.DefaultRelayTimeout, time.Since(start))

		// A caller that gives up learns nothing about anybody.
		require.NoError(t, w.peers.SetOffline(w.Context(), b.ServerName, false))
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		_, err = w.sender.Send(ctx, transaction(w.T, "2"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.False(t, w.peers.Offline(b.ServerName))
	})
}

// A homeserver that has a back-off of its own switches ours off. The time that a
// relay asks for still counts.
func TestSenderWithoutBackoff(t *testing.T) {
	inWorld(t, func(c *client.SenderConfig) { c.RelayBackoff = client.Backoff{First: -1} }, func(w *world) {
		wait := answers(503, `{"errcode":"M_LIMIT_EXCEEDED","error":"","retry_after_ms":60000}`)
		w.relays(answers(500, `{}`), answers(403, `{"errcode":"M_FORBIDDEN","error":""}`), wait)
		for i := range 5 {
			_, err := w.send(strconv.Itoa(i))
			_ = refusal(t, err)
		}
		require.Equal(t, 5, w.net.Asked(r1))
		require.Equal(t, 5, w.net.Asked(r2))
		require.Equal(t, 1, w.net.Asked(r3))
		time.Sleep(time.Minute)
		_, err := w.send("5")
		_ = refusal(t, err)
		require.Equal(t, 2, w.net.Asked(r3))
	})
}
