package relay_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// claim makes a signed request to claim the signer's mailbox.
func (r *rig) claim(signer *relaytest.Node, content string) (status int, body string) {
	r.Helper()
	return r.own(signer, http.MethodPut, wire.MailboxURI, json.RawMessage(content))
}

// own makes a signed request about the signer's mailbox.
func (r *rig) own(signer *relaytest.Node, method, uri string, content any) (status int, body string) {
	r.Helper()
	request, err := signer.Request(method, relayName, uri, content)
	require.NoError(r, err)
	return r.do(request)
}

// ownWhole is own, of which the answer is read.
func (r *rig) ownWhole(signer *relaytest.Node, uri string, into any) {
	r.Helper()
	status, body := r.own(signer, http.MethodGet, uri, nil)
	require.Equal(r, http.StatusOK, status, body)
	require.NoError(r, json.Unmarshal([]byte(body), into))
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
		status, body = r.own(r.b, http.MethodPost, wire.MailboxURI, nil)
		requireError(t, http.StatusMethodNotAllowed, "M_UNRECOGNIZED", status, body)
	}
}

// A relay without owners' policies doesn't know their paths.
func TestNoOwners(t *testing.T) {
	for _, p := range []policy.Policy{nil, policy.NewClosed(), policy.All(policy.NewClosed())} {
		r := newRig(t, func(c *relay.Config) { c.Policy = p })
		for _, uri := range []string{wire.MailboxURI, wire.PolicyURI} {
			status, body := r.own(r.b, http.MethodGet, uri, nil)
			requireError(t, http.StatusNotFound, "M_UNRECOGNIZED", status, body)
		}
		status, body := r.own(r.b, http.MethodPut, wire.PolicyURI, wire.MailboxPolicy{Mailbox: "x", Seq: 1})
		requireError(t, http.StatusNotFound, "M_UNRECOGNIZED", status, body)
	}
}

func newOwnersRig(t *testing.T, mode policy.Policy) *rig {
	return newRig(t, func(c *relay.Config) {
		owners, err := policy.NewOwners(policy.OwnersConfig{Store: c.Store, Mode: mode})
		require.NoError(t, err)
		c.Policy = policy.All(policy.NewLimits(policy.LimitsConfig{}), owners)
	})
}

func TestOwnersRequests(t *testing.T) {
	r := newOwnersRig(t, nil)
	var state wire.MailboxState
	r.ownWhole(r.b, wire.MailboxURI, &state)
	require.Equal(t, wire.MailboxState{Mailbox: state.Mailbox, State: wire.StateOpen}, state)
	var holds wire.MailboxPolicy
	r.ownWhole(r.b, wire.PolicyURI, &holds)
	require.Equal(t, wire.MailboxPolicy{Mailbox: state.Mailbox, Allow: []spec.ServerName{}, Deny: []spec.ServerName{}}, holds)

	p := wire.MailboxPolicy{
		Mailbox: state.Mailbox, Seq: 1, Allow: []spec.ServerName{r.c.ServerName}, Deny: []spec.ServerName{}, Strangers: &wire.Strangers{Bytes: 9},
	}
	status, body := r.own(r.b, http.MethodPut, wire.PolicyURI, p)
	require.Equal(t, http.StatusOK, status, body)
	r.ownWhole(r.b, wire.PolicyURI, &holds)
	require.Equal(t, p, holds)
	status, body = r.put(r.a, "1", r.b.ServerName, `{"pdus":[]}`)
	requireError(t, http.StatusInsufficientStorage, "M_RESOURCE_LIMIT_EXCEEDED", status, body)
	status, body = r.put(r.c, "1", r.b.ServerName, `{"pdus":[]}`)
	require.Equal(t, http.StatusOK, status, body)

	status, body = r.own(r.b, http.MethodPut, wire.PolicyURI, p)
	requireError(t, http.StatusConflict, "M_UNKNOWN", status, body)
	var conflict struct{ Policy wire.MailboxPolicy }
	require.NoError(t, json.Unmarshal([]byte(body), &conflict))
	require.Equal(t, p, conflict.Policy)
	p.Seq = 2
	status, body = r.own(r.a, http.MethodPut, wire.PolicyURI, p)
	requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
	var info wire.RelayInfo
	r.ownWhole(r.b, wire.InfoURI, &info)
	require.Contains(t, info.Extensions, wire.PolicyExtension)
	require.NotContains(t, wire.Extensions, wire.PolicyExtension)
}

func TestPoliciesThatAreNone(t *testing.T) {
	r := newOwnersRig(t, nil)
	many := `"` + strings.Repeat(`a.example","`, wire.MaxPolicyNames) + `b.example"`
	for content, code := range map[string]string{
		`{"mailbox":"","seq":1}`:                                          "M_BAD_JSON",
		`{"mailbox":"` + strings.Repeat("x", 65) + `","seq":1}`:           "M_BAD_JSON",
		`{"mailbox":"x"}`:                                                 "M_BAD_JSON",
		`{"mailbox":"x","seq":-1}`:                                        "M_BAD_JSON",
		`{"mailbox":"x","seq":9007199254740992}`:                          "M_BAD_JSON",
		`{"mailbox":"x","seq":1,"allow":["a b"]}`:                         "M_BAD_JSON",
		`{"mailbox":"x","seq":1,"deny":[""]}`:                             "M_BAD_JSON",
		`{"mailbox":"x","seq":1,"allow":[` + many + `]}`:                  "M_BAD_JSON",
		`{"mailbox":"x","seq":1,"strangers":{"entries":-1,"bytes":1}}`:    "M_BAD_JSON",
		`{"mailbox":"x","seq":1,"strangers":{"entries":1,"bytes":1e300}}`: "M_NOT_JSON",
		`[]`:                               "M_NOT_JSON",
		`{"mailbox":"x","seq":1,"deny":4}`: "M_NOT_JSON",
	} {
		status, body := r.own(r.b, http.MethodPut, wire.PolicyURI, json.RawMessage(content))
		requireError(t, http.StatusBadRequest, code, status, body)
	}
	large := `{"mailbox":"` + strings.Repeat("x", wire.MaxPolicyBytes) + `","seq":1}`
	status, body := r.own(r.b, http.MethodPut, wire.PolicyURI, json.RawMessage(large))
	requireError(t, http.StatusRequestEntityTooLarge, "M_TOO_LARGE", status, body)
}

func TestLeaveRequests(t *testing.T) {
	r := newOwnersRig(t, nil)
	var state wire.MailboxState
	r.ownWhole(r.b, wire.MailboxURI, &state)
	status, body := r.put(r.a, "1", r.b.ServerName, `{"pdus":[]}`)
	require.Equal(t, http.StatusOK, status, body)
	leaving := wire.Leaving{Mailbox: state.Mailbox}
	status, body = r.own(r.a, http.MethodPut, wire.LeaveURI, leaving)
	requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
	status, body = r.own(r.b, http.MethodPut, wire.LeaveURI, leaving)
	require.Equal(t, http.StatusOK, status, body)
	require.JSONEq(t, `{"state":"left"}`, body)
	status, body = r.put(r.a, "2", r.b.ServerName, `{"pdus":[]}`)
	requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
	require.Len(t, r.fetch(r.b), 1)
	r.ownWhole(r.b, wire.MailboxURI, &state)
	require.Equal(t, wire.MailboxState{Mailbox: leaving.Mailbox, State: wire.StateLeft}, state)

	status, body = r.own(r.b, http.MethodPut, wire.MailboxURI, wire.Return{After: leaving.Mailbox})
	require.Equal(t, http.StatusOK, status, body)
	require.JSONEq(t, `{"state":"open"}`, body)
	status, body = r.own(r.b, http.MethodPut, wire.MailboxURI, wire.Return{After: leaving.Mailbox})
	requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
	status, body = r.put(r.a, "2", r.b.ServerName, `{"pdus":[]}`)
	require.Equal(t, http.StatusOK, status, body)

	long := strings.Repeat("x", 65)
	for uri, contents := range map[string][]string{
		wire.LeaveURI:   {`[]`, `{}`, `{"mailbox":""}`, `{"mailbox":"` + long + `"}`, `{"mailbox":"x","discard":1}`},
		wire.MailboxURI: {`{"after":"` + long + `"}`},
	} {
		for _, wrong := range contents {
			status, body = r.own(r.b, http.MethodPut, uri, json.RawMessage(wrong))
			require.Equal(t, http.StatusBadRequest, status, body)
		}
	}
	status, body = r.own(r.b, http.MethodPut, wire.LeaveURI, json.RawMessage(`{"mailbox":"`+strings.Repeat("x", 5000)+`"}`))
	requireError(t, http.StatusRequestEntityTooLarge, "M_TOO_LARGE", status, body)
	status, body = r.own(r.b, http.MethodGet, wire.LeaveURI, nil)
	requireError(t, http.StatusMethodNotAllowed, "M_UNRECOGNIZED", status, body)
}

// Recorded requests of an owner are of no use later: the mailbox and its mail
// stay as they are. To fetch is the owner's own, and acknowledges nothing twice.
func TestReplayedOwnersRequests(t *testing.T) {
	r := newOwnersRig(t, nil)
	var recorded []func() (int, string)
	record := func(method, uri string, content any) {
		ask := func() (int, string) { return r.own(r.b, method, uri, content) }
		status, body := ask()
		require.Equal(t, http.StatusOK, status, body)
		recorded = append(recorded, ask)
	}
	var state wire.MailboxState
	r.ownWhole(r.b, wire.MailboxURI, &state)
	leave := func(id string) {
		status, body := r.put(r.a, id, r.b.ServerName, `{"pdus":[]}`)
		require.Equal(t, http.StatusOK, status, body)
	}
	leave("1")
	entry := r.peek(r.b, 0).EntryID
	record(http.MethodPut, wire.PolicyURI, wire.MailboxPolicy{Mailbox: state.Mailbox, Seq: 1, Deny: []spec.ServerName{r.a.ServerName}})
	record(http.MethodPut, wire.PolicyURI, wire.MailboxPolicy{Mailbox: state.Mailbox, Seq: 2})
	record(http.MethodPut, wire.LeaveURI, wire.Leaving{Mailbox: state.Mailbox, Discard: true})
	record(http.MethodPut, wire.MailboxURI, wire.Return{After: state.Mailbox})
	leave("2")
	for _, again := range recorded {
		status, _ := again()
		require.Contains(t, []int{http.StatusForbidden, http.StatusConflict}, status)
	}
	require.True(t, r.peek(r.b, entry).EntriesQueued, "an old acknowledgement takes nothing")
	before := state.Mailbox
	r.ownWhole(r.b, wire.MailboxURI, &state)
	require.NotEqual(t, before, state.Mailbox)
	require.Positive(t, state.OldestExpiresMS)
	state.OldestExpiresMS = 0
	require.Equal(t, wire.MailboxState{Mailbox: state.Mailbox, State: wire.StateOpen, PolicySeq: 2, Entries: 1, Bytes: state.Bytes}, state)
	require.Len(t, r.fetch(r.b), 1)
}
