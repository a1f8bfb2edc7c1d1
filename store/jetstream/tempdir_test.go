//go:build !linux

package jetstream

import "testing"

func serverDir(tb testing.TB) string { return tb.TempDir() }
