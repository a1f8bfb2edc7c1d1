package upkeep_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/upkeep"
)

func TestRetention(t *testing.T) {
	for option, want := range map[time.Duration]time.Duration{0: 24 * time.Hour, -1: 0, -time.Hour: 0, time.Second: time.Second} {
		require.Equal(t, want, upkeep.Retention(option), "%v", option)
	}
}

func TestLoop(t *testing.T) {
	for interval, want := range map[time.Duration]int{0: 60, -1: 0, time.Second: 3600, time.Hour: 1} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour+time.Millisecond)
			defer cancel()
			var log bytes.Buffer
			swept := 0
			upkeep.Loop(ctx, interval, slog.New(slog.NewTextHandler(&log, nil)), "some", func(context.Context) error {
				swept++
				return []error{errors.New("failed"), fmt.Errorf("wrapped: %w", store.ErrReopen), nil}[swept%3]
			})
			require.Equal(t, want, swept, "%v", interval)
			require.Equal(t, want/3, bytes.Count(log.Bytes(), []byte("some: removing expired mail failed")), "%v", interval)
		})
	}
}

func TestSteps(t *testing.T) {
	failed := errors.New("failed")
	for _, c := range []struct {
		steps int
		err   error
		want  int
	}{{1, nil, 3}, {4, nil, 12}, {1, failed, 0}, {4, failed, 9}} {
		n := 0
		all, err := upkeep.Steps(func() (int, bool, error) {
			if n++; n == c.steps {
				return 3, false, c.err
			}
			return 3, true, nil
		})
		require.Equal(t, c.want, all)
		require.Equal(t, c.err, err)
	}
}
