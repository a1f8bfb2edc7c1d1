package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/need"
	"github.com/matrixrelay/relay/relaytest"
)

func TestEscaped(t *testing.T) {
	for text, want := range map[string]string{
		"plain\ttext\né🎁 \"quoted\" \\": "plain\ttext\né🎁 \"quoted\" \\",
		"\x1b[2J":                       `\x1b[2J`,
		"\u009b2J":                      `\u009b2J`,
		"\x9b2J \xc2":                   `\x9b2J \xc2`,
		"over\rwritten\x7f\x00\a":       `over\rwritten\x7f\x00\a`,
		"txet\u202e \ufffd":             `txet\u202e ` + "\ufffd",
	} {
		require.Equal(t, want, string(escaped([]byte(text))))
	}
}

// Mail that a stranger wrote doesn't control the terminal on which it is shown. A file or
// a pipe gets it as it is.
func TestMailOnTerminal(t *testing.T) {
	script := need.Program(t, "script")
	db, a := database(t), relaytest.NewNode("a")
	key, name := keyPair(t)
	p := start(t, "--db", db)
	const evil, shown = "\u009b2J\x7f", `\u009b2J\x7f`
	sent := a.Transaction(spec.ServerName(name), "t1", 0, 0)
	sent.EDUs = []gomatrixserverlib.EDU{{Type: "x", Content: []byte(`{"body":"` + evil + `"}`)}}
	require.NoError(t, put(t, p.network(), a, sent))
	for _, args := range [][]string{
		{"mailbox", name, "--bodies", "--db", db},
		{"--json", "fetch", "--bodies", "--relay", string(relayName), "--at", string(relayName) + "=" + p.address, "--signing-key", key},
	} {
		self := commandOf(os.Args[0], withInput, args)
		c := exec.Command(script, "-qec", strings.Join(self.Args, " "), os.DevNull)
		c.Env = self.Env
		said, err := c.Output()
		require.NoError(t, err, "%s", said)
		require.Contains(t, string(said), shown)
		require.NotContains(t, string(said), evil[:2])
		require.Contains(t, tool(t, args...), evil)
	}
	p.stop()
}
