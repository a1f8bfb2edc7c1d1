package trust

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

func TestTrust(t *testing.T) {
	trust := New("sand", slog.New(slog.DiscardHandler))
	require.NoError(t, trust.Failure())
	select {
	case <-trust.Failed():
		t.Fatal("it has failed already")
	default:
	}
	first := errors.New("the first reason")
	trust.Lose(first)
	trust.Lose(errors.New("another"))
	<-trust.Failed()
	require.ErrorIs(t, trust.Failure(), store.ErrReopen)
	require.ErrorIs(t, trust.Failure(), first)
	require.ErrorContains(t, trust.Failure(), "sand: ")
}
