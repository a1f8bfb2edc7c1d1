package policy_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

const inviteKey, inviter = "0123456789abcdef0123456789abcdef", spec.ServerName("relay.example")

func newInvite(t *testing.T, change func(*policy.InviteConfig)) *policy.Invite {
	config := policy.InviteConfig{ServerName: inviter, Key: []byte(inviteKey), Claims: policy.Unlimited, Promise: policy.Size{Bytes: promise}}
	change(&config)
	if config.Store == nil {
		config.Store = memory.New(memory.Options{})
		t.Cleanup(func() { require.NoError(t, config.Store.Close()) })
	}
	i, err := policy.NewInvite(config)
	require.NoError(t, err)
	return i
}

func invitation(t *testing.T, uses int, until time.Time) string {
	text, err := policy.NewInviteText([]byte(inviteKey), uses, until)
	require.NoError(t, err)
	return text
}

// claim has a server use an invite.
func claim(t *testing.T, i *policy.Invite, server spec.ServerName, text string) error {
	made, err := wire.NewClaim(text, inviter, server)
	require.NoError(t, err)
	return claimAs(t, i, server, made)
}

func claimAs(t *testing.T, i *policy.Invite, server spec.ServerName, made wire.Claim) error {
	r, err := try{address: "192.0.2.1", endpoint: wire.Mailbox, origin: server, destination: server, room: room()}.begin(t, i)
	require.NoError(t, err)
	defer r.Done(policy.Used{})
	return i.Claim(t.Context(), r, made)
}

func TestInvite(t *testing.T) {
	kept := memory.New(memory.Options{})
	defer func() { require.NoError(t, kept.Close()) }()
	withStore := func(c *policy.InviteConfig) { c.Store = kept }
	i := newInvite(t, withStore)
	requireStatus(t, 403, put("192.0.2.1", "anybody", "b", 10).run(t, i))
	requireStatus(t, 403, get("192.0.2.1", "b").run(t, i))

	text := invitation(t, 1, time.Now())
	require.NoError(t, claim(t, i, "b", text))
	require.NoError(t, claim(t, i, "b", text), "repeats are free")
	requireStatus(t, 403, claim(t, i, "c", text))
	for range 2 {
		require.NoError(t, put("192.0.2.1", "anybody", "b", 10).run(t, i))
		r, err := get("192.0.2.1", "b").begin(t, i)
		require.NoError(t, err)
		require.True(t, r.Member)
		requireStatus(t, 403, put("192.0.2.1", "b", "c", 10).run(t, i))
		requireStatus(t, 403, claim(t, i, "c", text))
		i = newInvite(t, withStore)
	}

	second := invitation(t, 1, time.Now())
	require.NoError(t, claim(t, i, "b", second), "it has its mailbox already")
	require.NoError(t, claim(t, i, "c", second), "so it isn't used up")
}

// An invite for two, used by B, C and D at once, some of them twice: two get in.
func TestInviteAtOnce(t *testing.T) {
	for range 20 {
		i, text := newInvite(t, func(*policy.InviteConfig) {}), invitation(t, 2, time.Now())
		var claims sync.WaitGroup
		var in sync.Map
		var refused atomic.Int32
		for _, server := range []spec.ServerName{"b", "b", "c", "d"} {
			claims.Go(func() {
				if err := claim(t, i, server, text); err == nil {
					in.Store(server, true)
				} else {
					refused.Add(1)
				}
			})
		}
		claims.Wait()
		count := 0
		in.Range(func(any, any) bool { count++; return true })
		require.Equal(t, 2, count)
		require.NotZero(t, refused.Load())
	}
}

func TestInvitesThatAreNone(t *testing.T) {
	i, text := newInvite(t, func(*policy.InviteConfig) {}), invitation(t, 5, time.Now())
	id, secret, _ := strings.Cut(text, ".")
	for _, made := range map[string]wire.Claim{
		"recorded for another":  {Invite: id, MAC: wire.InviteMAC(secret, inviter, "b")},
		"for another relay":     {Invite: id, MAC: wire.InviteMAC(secret, "relay2.example", "c")},
		"more uses":             {Invite: "9" + id, MAC: wire.InviteMAC(secret, inviter, "c")},
		"another secret":        {Invite: id, MAC: wire.InviteMAC("x"+secret, inviter, "c")},
		"the secret itself":     {Invite: id, MAC: secret},
		"of another key's name": {Invite: "x", MAC: wire.InviteMAC("", inviter, "c")},
	} {
		requireStatus(t, 403, claimAs(t, i, "c", made))
	}
	require.NoError(t, claim(t, i, "c", text))
	_, err := policy.NewInvite(policy.InviteConfig{Store: memory.New(memory.Options{}), Key: []byte("short")})
	require.Error(t, err)
	for _, uses := range []int{0, -1, policy.MaxInviteUses + 1} {
		_, err = policy.NewInviteText([]byte(inviteKey), uses, time.Now())
		require.Error(t, err)
	}
}

func TestInviteEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, text := newInvite(t, func(*policy.InviteConfig) {}), invitation(t, 2, time.Now().AddDate(0, 0, 1))
		time.Sleep(47 * time.Hour) // it is midnight: to the end of tomorrow
		require.NoError(t, claim(t, i, "b", text))
		time.Sleep(time.Hour)
		requireStatus(t, 403, claim(t, i, "c", text))
		require.NoError(t, put("192.0.2.1", "anybody", "b", 10).run(t, i), "the claim stays")
	})
}

// An invite that nobody could use isn't made.
func TestInviteUntilAPastDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // on the 1st of January 2000
		for days, wantErr := range map[int]bool{-400: true, -1: true, 0: false, 1: false} {
			_, err := policy.NewInviteText([]byte(inviteKey), 1, time.Now().AddDate(0, 0, days))
			require.Equal(t, wantErr, err != nil, days)
		}
	})
}

// Promised room is booked: when all is, nobody else gets in, and the invite isn't used
// up.
func TestInviteBooked(t *testing.T) {
	i := newInvite(t, func(c *policy.InviteConfig) { c.Promise = policy.Size{Bytes: wholeStore / 4} })
	text := invitation(t, 5, time.Now())
	for n := range 3 {
		require.NoError(t, claim(t, i, spec.ServerName(fmt.Sprint("b", n)), text))
	}
	requireStatus(t, 507, claim(t, i, "late", text))
	require.NoError(t, claim(t, i, "b1", text))
}

func TestInvitesByAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInvite(t, func(c *policy.InviteConfig) { c.Claims = policy.Rate{PerSecond: 1. / 60, Burst: 2} })
		text := invitation(t, 5, time.Now())
		for range 100 {
			requireStatus(t, 403, claimAs(t, i, "stranger", wire.Claim{Invite: "x", MAC: "y"}))
		}
		require.NoError(t, claim(t, i, "b", text), "wrong ones take nothing from others at the address")
		require.NoError(t, claim(t, i, "b", text))
		time.Sleep(requireStatus(t, 429, claim(t, i, "c", text)))
		require.NoError(t, claim(t, i, "c", text))
	})
}

// Mail that is there from another mode can be fetched by its owner.
func TestUninvitedMayFetchWhatThereIs(t *testing.T) {
	kept := memory.New(memory.Options{})
	defer func() { require.NoError(t, kept.Close()) }()
	i := newInvite(t, func(c *policy.InviteConfig) { c.Store = kept })
	_, err := kept.Put(t.Context(), store.Mail{Destination: "b", Origin: "a", Body: []byte("{}")}, store.Limits{})
	require.NoError(t, err)
	r, err := get("192.0.2.1", "b").begin(t, i)
	require.NoError(t, err)
	require.False(t, r.Member)
}
