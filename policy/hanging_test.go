package policy_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/wire"
)

// While a change hangs in the store, nobody waits for it longer than the request lasts.
func TestChangesThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s := newHanging(t)
		blocks, err := policy.NewBlocklist(t.Context(), s)
		require.NoError(t, err)
		owners, err := policy.NewOwners(policy.OwnersConfig{Store: s})
		require.NoError(t, err)
		request := func() *policy.Request { return &policy.Request{Origin: "b", Member: true} }
		changes := map[string]func(context.Context) error{
			"block":   func(ctx context.Context) error { _, err := blocks.Block(ctx, policy.Block{Entity: "x"}); return err },
			"unblock": func(ctx context.Context) error { _, err := blocks.Unblock(ctx, "x"); return err },
			"mailbox": func(ctx context.Context) error { _, err := owners.Mailbox(ctx, request()); return err },
			"policy":  func(ctx context.Context) error { _, err := owners.Policy(ctx, request()); return err },
			"set":     func(ctx context.Context) error { return owners.SetPolicy(ctx, request(), wire.MailboxPolicy{Seq: 1}) },
			"leave":   func(ctx context.Context) error { return owners.Leave(ctx, request(), wire.Leaving{}) },
			"return":  func(ctx context.Context) error { return owners.Return(ctx, request(), wire.Return{}) },
		}
		s.notes = make(chan struct{})
		var hanging sync.WaitGroup
		for _, name := range []string{"block", "mailbox"} {
			hanging.Go(func() { require.NoError(t, changes[name](t.Context())) })
		}
		synctest.Wait()
		for name, change := range changes {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began := time.Now()
			require.ErrorIs(t, change(ctx), context.DeadlineExceeded, name)
			require.Equal(t, time.Second, time.Since(began), name)
			cancel()
		}
		close(s.notes)
		hanging.Wait()
	})
}
