//go:build unix && !linux

package postgres

import (
	"testing"

	"github.com/matrixrelay/relay/internal/need"
)

func mount(t *testing.T, _, _ string) {
	t.Helper()
	need.Missing(t, "small file systems are mounted on Linux only")
}
