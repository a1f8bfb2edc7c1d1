package main

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
)

// TestDribblers has many connections that send a part of a request and no
// more, while a node that behaves leaves its mail. RELAY_DRIBBLERS is how many
// of each kind (default 300).
func TestDribblers(t *testing.T) {
	dribblers := 300
	if s := os.Getenv("RELAY_DRIBBLERS"); s != "" {
		var err error
		dribblers, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	p := start(t, "--db", database(t))
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	begun := p.rawPut(a, b, "dribble", 20_000)
	for kind, part := range map[string][]byte{
		"idle":        nil,
		"half header": begun.header[:len(begun.header)/2],
		"header":      begun.header,
		"half body":   append(begun.header, begun.body[:6000]...),
	} {
		t.Logf("%d connections: %s", dribblers, kind)
		for range dribblers {
			connection, err := net.Dial("tcp", p.address)
			require.NoError(t, err)
			t.Cleanup(func() { _ = connection.Close() })
			_, err = connection.Write(part)
			require.NoError(t, err)
		}
		for i := range 10 {
			require.NoError(t, put(t, p.network(), a, a.Transaction(b.ServerName, strings.ReplaceAll(kind, " ", "-")+strconv.Itoa(i), 2, 50_000)))
		}
	}
	assert.Len(t, drain(t, p.network(), b), 40)
}
