// Package need is for tests that need more than Go: they are skipped where it
// isn't there, and fail where it must be.
package need

import (
	"os"
	"os/exec"
	"testing"
)

// Everything is the environment variable that makes a missing need a failure.
// CI sets it.
const Everything = "RELAY_TEST_EVERYTHING"

// Missing skips the test for the reason, or fails it.
func Missing(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv(Everything) != "" {
		t.Fatalf("%s (%s is set)", reason, Everything)
	}
	t.Skip(reason)
}

// Program returns the path of a program that the test runs.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "needs the program "+name)
	}
	return path
}

// Root is for tests that mount or trace.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "needs root")
	}
}
