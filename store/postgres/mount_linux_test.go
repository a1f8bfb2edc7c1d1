package postgres

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/need"
)

// mount mounts a small file system that goes with the test.
func mount(t *testing.T, dir, options string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		need.Missing(t, "can't mount a small file system: "+err.Error())
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
}
