package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// A rawPut is a signed request to the relay, byte for byte, that can be sent
// in parts.
type rawPut struct {
	net.Conn
	answers      *bufio.Reader
	header, body []byte
}

func (p *program) rawPut(from, to *relaytest.Node, id string, size int) *rawPut {
	p.t.Helper()
	transaction := from.Transaction(to.ServerName, id, 1, size)
	request, err := from.Request(http.MethodPut, relayName, wire.SendRelayURI(transaction.TransactionID, relaytest.User(to.ServerName)), transaction)
	require.NoError(p.t, err)
	body, err := io.ReadAll(request.Body)
	require.NoError(p.t, err)
	var header bytes.Buffer
	header.WriteString("PUT " + request.URL.RequestURI() + " HTTP/1.1\r\nHost: relay\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n")
	require.NoError(p.t, request.Header.Write(&header))
	header.WriteString("\r\n")
	connection, err := net.Dial("tcp", p.address)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { _ = connection.Close() })
	return &rawPut{connection, bufio.NewReader(connection), header.Bytes(), body}
}

// begin sends the header, and returns when the program begins to read the body.
func (r *rawPut) begin(t testing.TB) {
	t.Helper()
	header, _ := bytes.CutSuffix(r.header, []byte("\r\n"))
	r.send(t, append(bytes.Clone(header), "Expect: 100-continue\r\n\r\n"...))
	require.Equal(t, http.StatusContinue, r.status(t))
}

func (r *rawPut) send(t testing.TB, part []byte) {
	t.Helper()
	_, err := r.Write(part)
	require.NoError(t, err)
}

func (r *rawPut) status(t testing.TB) int {
	t.Helper()
	require.NoError(t, r.SetReadDeadline(time.Now().Add(patience)))
	response, err := http.ReadResponse(r.answers, nil)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return response.StatusCode
}

// TestStopAnswersWhatIsUnderWay stops the program while requests are half
// there.
func TestStopAnswersWhatIsUnderWay(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		t.Run(signal.String(), func(t *testing.T) {
			const senders = 8
			db := database(t)
			p := start(t, "--db", db)
			a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
			underWay := make([]*rawPut, senders)
			for i := range underWay {
				underWay[i] = p.rawPut(a, b, strconv.Itoa(i), 20_000)
				underWay[i].begin(t)
				underWay[i].send(t, underWay[i].body[:10_000])
			}
			p.signal(signal)
			p.waitDeaf()
			for _, r := range underWay {
				r.send(t, r.body[10_000:])
			}
			for _, r := range underWay {
				require.Equal(t, http.StatusOK, r.status(t))
			}
			require.Equal(t, 0, p.status(), p.logged())

			p = start(t, "--db", db)
			assert.Len(t, drain(t, p.network(), b), senders)
		})
	}
}

// waitDeaf waits until the program takes no connections.
func (p *program) waitDeaf() {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		connection, err := net.Dial("tcp", p.address)
		if err == nil {
			_ = connection.Close()
		}
		return err != nil
	}, patience, 10*time.Millisecond, "it still takes connections")
}

// TestStopEndsWaits stops the program while nodes wait for mail.
func TestStopEndsWaits(t *testing.T) {
	const waiting = 3
	p := start(t, "--db", database(t), "--max-waiting", "2")
	node, answers := relaytest.NewNode("b"), make(chan string, waiting)
	for range waiting {
		request, err := node.Request(http.MethodGet, relayName, wire.RelayTxnURI(relaytest.User(node.ServerName))+"?limit=1&timeout=60000", fclient.RelayEntry{})
		require.NoError(t, err)
		go func() { answers <- answerTo(p.network(), request) }()
	}
	assert.Equal(t, wire.EmptyTaking, <-answers, "the one that is too many, so the others wait")
	assert.Empty(t, answers)
	p.stop()
	assert.NotContains(t, p.logged(), "cutting off")
	for range waiting - 1 {
		assert.Equal(t, wire.EmptyTaking, <-answers)
	}
}

func answerTo(transport http.RoundTripper, request *http.Request) string {
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err.Error()
	}
	body, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return err.Error()
	}
	return string(body)
}

// TestStopWaitsForNobodyForever has a request that never ends.
func TestStopWaitsForNobodyForever(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a stop may")
	}
	t.Parallel()
	p := start(t, "--db", database(t))
	stuck := p.rawPut(relaytest.NewNode("a"), relaytest.NewNode("b"), "1", 20_000)
	stuck.begin(t)
	p.stop()
	assert.Contains(t, p.logged(), "cutting off")
}

func TestSecondSignalKills(t *testing.T) {
	p := start(t, "--db", database(t))
	stuck := p.rawPut(relaytest.NewNode("a"), relaytest.NewNode("b"), "1", 20_000)
	stuck.begin(t)
	p.signal(syscall.SIGTERM)
	p.waitDeaf()
	for ended := false; !ended; { // the first may not have been dealt with to its end
		_ = p.command.Process.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-p.ended:
			ended = true
		case <-time.After(20 * time.Millisecond):
		}
	}
	assert.Equal(t, -1, p.status(), p.logged())
}

// drain is the loop of deployed nodes.
func drain(t testing.TB, transport http.RoundTripper, to *relaytest.Node) (entries []int64) {
	t.Helper()
	var last int64
	for {
		answer, err := get(t, transport, to, last)
		require.NoError(t, err)
		if !answer.EntriesQueued {
			return entries
		}
		last = answer.EntryID
		entries = append(entries, last)
	}
}
