package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/wire"
)

// abandonCommand makes the test program start a relay process, say its address
// and wait to be killed. The database file follows.
const abandonCommand = "abandon-relay"

// TestMain lets the test program be the relay process, as main does.
func TestMain(m *testing.M) {
	switch {
	case isRelayProcess(os.Args):
		exitOn(relayProcessMain(os.Args, os.Stdin, os.Stdout))
	case len(os.Args) == 3 && os.Args[1] == abandonCommand:
		p, err := startRelay(context.Background(), relayName, os.Args[2])
		exitOn(err)
		fmt.Println(p.address)
		select {}
	default:
		os.Exit(m.Run())
	}
}

func TestStory(t *testing.T) {
	var told bytes.Buffer
	require.NoError(t, run(t.Context(), &told))
	for _, line := range []string{
		"B can't be reached",
		"dropbox-3 (room events: 1, typing notices: 0): 200",
		"killed",
		"403 {",
		"M_FORBIDDEN",
		"(room events: 3, typing notices: 1): hashes and signatures are A's",
		"The mailbox of B is empty.",
		"Everything arrived once, in order and unchanged",
	} {
		assert.Contains(t, told.String(), line)
	}
}

func TestStoryEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, run(ctx, io.Discard))
}

// TestRelayEndsWithItsParent kills the parent of a relay process.
func TestRelayEndsWithItsParent(t *testing.T) {
	parent := exec.Command(os.Args[0], abandonCommand, filepath.Join(t.TempDir(), "relay.db"))
	parent.Stderr = os.Stderr
	stdout, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	var address string
	_, err = fmt.Fscanln(stdout, &address)
	require.NoError(t, err)
	connection, err := net.Dial("tcp", address)
	require.NoError(t, err)
	require.NoError(t, connection.Close())

	require.NoError(t, parent.Process.Kill())
	require.Error(t, parent.Wait())
	require.Eventually(t, func() bool {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			_ = connection.Close()
		}
		return err != nil
	}, 10*time.Second, 10*time.Millisecond, "the relay goes on without its parent")
}

// delivery is what B got, to be spoilt.
type delivery struct {
	room *room
	sent []gomatrixserverlib.Transaction
	got  []wire.Answer
}

func newDelivery(t *testing.T) *delivery {
	s := &story{out: io.Discard}
	var err error
	for _, n := range []**node{&s.a, &s.b} {
		*n, err = newNode(&s.roads)
		require.NoError(t, err)
	}
	s.room, err = newRoom(s.a, s.b)
	require.NoError(t, err)
	d := &delivery{room: s.room.asKnownNow()}
	require.NoError(t, s.write())
	for i, transaction := range s.sent {
		body, err := onTheWire(transaction)
		require.NoError(t, err)
		d.got = append(d.got, wire.Answer{Transaction: body, EntryID: int64(i + 1), EntriesQueued: true})
	}
	d.sent = s.sent
	return d
}

func (d *delivery) check(ctx context.Context) error {
	in := inbox{room: d.room}
	for _, answer := range d.got {
		if err := in.take(ctx, answer); err != nil {
			return err
		}
	}
	return in.compare(d.sent)
}

// TestInboxNotices spoils a delivery in each way that the story promises to
// notice.
func TestInboxNotices(t *testing.T) {
	replace := func(old, new string) func(*delivery) {
		return func(d *delivery) {
			body := string(d.got[1].Transaction)
			d.got[1].Transaction = json.RawMessage(strings.Replace(body, old, new, 1))
		}
	}
	for name, test := range map[string]struct {
		spoil func(*delivery)
		want  string
	}{
		"nothing":           {func(*delivery) {}, ""},
		"the last missing":  {func(d *delivery) { d.got = d.got[:2] }, "3 transactions were sent, 2 arrived"},
		"the first missing": {func(d *delivery) { d.got = d.got[1:] }, "missing, twice or in the wrong order"},
		"twice":             {func(d *delivery) { d.got = slices.Insert(d.got, 1, d.got[0]) }, "missing, twice or in the wrong order"},
		"wrong order":       {func(d *delivery) { d.got[0], d.got[1] = d.got[1], d.got[0] }, "missing, twice or in the wrong order"},
		"content changed":   {replace("Tsch", "tsch"), "its hash is wrong"},
		"sender changed":    {replace(`"sender":"@alice:`, `"sender":"@malory:`), "its hash is wrong"},
		"signature changed": {replace(`"ed25519:dropbox":"`, `"ed25519:dropbox":"AAAA`), "signature"},
		"EDU changed":       {replace(`"typing":true`, `"typing":false`), "was changed on the way"},
		"not JSON":          {replace(`{`, ``), "transaction of entry 2"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDelivery(t)
			test.spoil(d)
			err := d.check(t.Context())
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, test.want)
		})
	}
}
