package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
		p, err := startRelay(context.Background(), relay1, os.Args[2])
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
		"B announces these relays",
		"    matrixrelay:",
		"B can't be reached",
		"alice-2 (room events: 3, typing notices: 1): 200 from relay1, relay2, relay3, relay4\n",
		"killed",
		"alice-3 (room events: 1, typing notices: 0): no relay is there",
		"alice-3 (room events: 1, typing notices: 0): 200 from relay2\n",
		"alice-4 (room events: 1, typing notices: 0): 200 from relay1, relay2, relay4\n",
		"relay1: 403 {",
		"M_FORBIDDEN",
		"alice-2 (room events: 3, typing notices: 1) from relay",
		"alice-3 (room events: 1, typing notices: 0) from relay",
		": proof, hashes and signatures are A's\n",
		"relay3: ",
		"alice-4 with one word changed: wire: wrong proof of origin",
		"an invented typing notice, with A's proof for another: wire: wrong proof of origin",
		"the same without a proof: client: there is no proof of origin",
		"held nothing back",
		"A has bob-1",
		"alice-4: B knows it",
		"Everything arrived once, in order and unchanged, and nothing else did",
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
	}, time.Minute, 10*time.Millisecond, "the relay goes on without its parent")
}
