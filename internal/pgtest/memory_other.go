//go:build unix && !linux

package pgtest

import "testing"

// parentDir is empty where it isn't known which directory is in memory.
func parentDir(testing.TB) string { return "" }
