package freeport

import (
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// A port that was found is free for its server, but not for anybody else, until
// the test ends.
func TestClaims(t *testing.T) {
	var port int
	t.Run("while the test runs", func(t *testing.T) {
		port = Find(t, 1)[0]
		require.False(t, claim(t, port))
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
		require.NoError(t, err)
		require.NoError(t, l.Close())
		require.False(t, claim(t, port))
	})
	require.True(t, claim(t, port))
}
