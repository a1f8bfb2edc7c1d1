package relay_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// claim makes a signed request to claim the signer's mailbox.
func (r *rig) claim(signer *relaytest.Node, content string) (status int, body string) {
	r.Helper()
	request, err := signer.Request(http.MethodPut, relayName, wire.MailboxURI, json.RawMessage(content))
	require.NoError(r, err)
	return r.do(request)
}

func TestClaimWithInvite(t *testing.T) {
	key := []byte(strings.Repeat("k", policy.MinInviteKey))
	r := newRig(t, func(c *relay.Config) {
		var err error
		c.Policy, err = policy.NewInvite(policy.InviteConfig{Store: c.Store, ServerName: relayName, Key: key})
		require.NoError(t, err)
		c.Policy = policy.All(policy.NewLimits(policy.LimitsConfig{}), c.Policy)
	})
	status, body := r.put(r.a, "1", r.b.ServerName, `{"pdus":[]}`)
	requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
	status, body = r.ask(r.b, r.b.ServerName, `{"entry_id":0}`)
	requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)

	text, err := policy.NewInviteText(key, 1, time.Now())
	require.NoError(t, err)
	made, err := wire.NewClaim(text, relayName, r.b.ServerName)
	require.NoError(t, err)
	content, err := json.Marshal(made)
	require.NoError(t, err)
	status, body = r.claim(r.a, string(content))
	requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
	for _, wrong := range []string{`[]`, `{}`, `{"invite":"x"}`, `{"invite":"` + strings.Repeat("x", 200) + `","mac":"y"}`} {
		status, _ = r.claim(r.b, wrong)
		require.Equal(t, http.StatusBadRequest, status, wrong)
	}
	status, body = r.claim(r.b, `{"invite":"`+strings.Repeat("x", 5000)+`"}`)
	requireError(t, http.StatusRequestEntityTooLarge, "M_TOO_LARGE", status, body)
	status, body = r.claim(r.b, string(content))
	require.Equal(t, http.StatusOK, status, body)
	require.JSONEq(t, `{"state":"open"}`, body)

	status, body = r.put(r.a, "1", r.b.ServerName, `{"pdus":[]}`)
	require.Equal(t, http.StatusOK, status, body)
	require.Len(t, r.fetch(r.b), 1)
}

// A relay without invites doesn't know the path.
func TestClaimWithoutInvites(t *testing.T) {
	for _, p := range map[string]policy.Policy{"none": nil, "another": policy.All(policy.NewClosed())} {
		r := newRig(t, func(c *relay.Config) { c.Policy = p })
		status, body := r.claim(r.b, `{"invite":"x","mac":"y"}`)
		requireError(t, http.StatusNotFound, "M_UNRECOGNIZED", status, body)
		request, err := r.b.Request(http.MethodGet, relayName, wire.MailboxURI, nil)
		require.NoError(t, err)
		status, body = r.do(request)
		requireError(t, http.StatusMethodNotAllowed, "M_UNRECOGNIZED", status, body)
	}
}
