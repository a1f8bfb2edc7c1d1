package wake

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

func empty() error { return store.ErrEmpty }

// Mail that comes after the check began isn't missed.
func TestNotifyDuringTheCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Hub
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, h.Wait(ctx, "b", func() error {
			h.Notify("b")
			return store.ErrEmpty
		}))
	})
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Hub
		woken := make(chan error, 3)
		for range 3 {
			go func() { woken <- h.Wait(context.Background(), "b", empty) }()
		}
		synctest.Wait()
		h.Notify("c")
		synctest.Wait()
		require.Empty(t, woken)
		h.Notify("b")
		for range 3 {
			require.NoError(t, <-woken)
		}
		require.Empty(t, h.waiting)
		require.NoError(t, h.Wait(t.Context(), "b", func() error { return nil }))

		ctx, cancel := context.WithCancel(t.Context())
		go func() { woken <- h.Wait(ctx, "b", empty) }()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-woken, context.Canceled)
		require.Empty(t, h.waiting, "nobody is left behind")

		go func() { woken <- h.Wait(context.Background(), "b", empty) }()
		synctest.Wait()
		h.Close()
		h.Close()
		require.ErrorIs(t, <-woken, store.ErrClosed)
		require.ErrorIs(t, h.Wait(context.Background(), "b", empty), store.ErrClosed)
	})
}

// All waiting calls are woken, and wait again if there is nothing for them.
func TestNotifyAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Hub
		h.NotifyAll()
		woken := make(chan error, 2)
		go func() { woken <- h.Wait(context.Background(), "b", empty) }()
		go func() { woken <- h.Wait(context.Background(), "c", empty) }()
		synctest.Wait()
		h.NotifyAll()
		require.NoError(t, <-woken)
		require.NoError(t, <-woken)
		go func() { woken <- h.Wait(context.Background(), "b", empty) }()
		synctest.Wait()
		require.Empty(t, woken)
		h.Close()
		require.ErrorIs(t, <-woken, store.ErrClosed)
	})
}
