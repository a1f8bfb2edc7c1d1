package policy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/wire"
)

func TestClosed(t *testing.T) {
	c := policy.NewClosed("b", "c")
	require.NoError(t, put("192.0.2.1", "anybody", "b", 10).run(t, c))
	r, err := put("192.0.2.1", "anybody", "d", 10).begin(t, c)
	requireStatus(t, 403, err)
	require.Equal(t, policy.Claimed, r.Stage, "before the body is read")
	for server, member := range map[spec.ServerName]bool{"b": true, "d": false} {
		r, err := get("192.0.2.1", server).begin(t, c)
		require.NoError(t, err, "mail from before can be fetched")
		require.Equal(t, member, r.Member)
	}
	local := &policy.Request{Stage: policy.Claimed, Endpoint: wire.SendRelay, Origin: "anybody", Destination: "relay", Local: true}
	require.NoError(t, c.Admit(t.Context(), local), "it isn't kept")
	c.Set([]spec.ServerName{"d"})
	require.NoError(t, put("192.0.2.1", "anybody", "d", 10).run(t, c))
	requireStatus(t, 403, put("192.0.2.1", "anybody", "b", 10).run(t, c))
}

func TestReadList(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	for text, want := range map[string]string{
		"":                           "",
		"a\n\n  b.example:8448 \n":   "a,b.example:8448",
		"# all of us\na # the first": "a",
		"a\nb c\n":                   "line 2",
		"a\r\nb\r\n":                 "a,b",
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		servers, err := policy.ReadList(path)
		if strings.HasPrefix(want, "line") {
			require.ErrorContains(t, err, want)
			continue
		}
		require.NoError(t, err)
		var names []string
		for _, s := range servers {
			names = append(names, string(s))
		}
		require.Equal(t, want, strings.Join(names, ","))
	}
	_, err := policy.ReadList(path + "-missing")
	require.ErrorIs(t, err, os.ErrNotExist)
}
