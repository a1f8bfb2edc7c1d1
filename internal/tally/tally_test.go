package tally_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/tally"
)

func lines(log *bytes.Buffer) []string {
	text := strings.TrimSuffix(log.String(), "\n")
	log.Reset()
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

func newTally() (*tally.Tally, *bytes.Buffer) {
	var log bytes.Buffer
	return tally.New(slog.New(slog.NewTextHandler(&log, nil)), "refused"), &log
}

func TestFirstAndThenOneLineAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counted, log := newTally()
		for i := range 90_000 { // three minutes
			counted.Note("429", fmt.Sprint("192.0.2.", i%2), "a", "the first", "error", "slow down")
			if i%3 == 0 {
				counted.Note("401", "198.51.100.1", "", "the first")
			}
			time.Sleep(2*time.Millisecond + 1) // so that none comes just at the end of a minute
		}
		counted.Close()
		got := lines(log)
		require.Len(t, got, 5, "two that were the first, and three minutes")
		require.Contains(t, got[0], `msg="the first" kind=429 address=192.0.2.0 name=a error="slow down"`)
		require.Contains(t, got[1], `msg="the first" kind=401`)
		require.Contains(t, got[2], `msg=refused 401=10000 429=30000 addresses="192.0.2.0 (15000), 192.0.2.1 (15000), 198.51.100.1 (10000)" names="a (30000)"`)
		counted.Note("429", "", "", "")
		counted.Close()
		require.Empty(t, lines(log), "it is closed")
	})
}

// A log that hangs while the counts are written holds up no caller that counts.
func TestSlowLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := make(hanging, 1)
		lines <- struct{}{} // the first is written
		counted := tally.New(slog.New(slog.NewTextHandler(lines, nil)), "refused")
		for range 2 {
			counted.Note("429", "", "", "the first")
		}
		time.Sleep(2 * time.Minute)
		counted.Note("429", "", "", "the first") // else this hangs
		close(lines)
		synctest.Wait()
		counted.Close()
	})
}

// A hanging is an io.Writer that writes a line for each thing that is in it.
type hanging chan struct{}

func (h hanging) Write(p []byte) (int, error) {
	<-h
	return len(p), nil
}

func TestQuietIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counted, log := newTally()
		defer counted.Close()
		counted.Note("429", "", "", "the first")
		counted.Note("429", "", "", "the first")
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Len(t, lines(log), 2)
	})
}

// A million names, addresses and kinds take little memory, and the worst is found.
func TestWorstOfMany(t *testing.T) {
	counted, log := newTally()
	for i := range 100_000 {
		counted.Note(fmt.Sprint("kind", i), fmt.Sprint("address", i), "worst", "the first")
		if i%4 == 0 {
			counted.Note("kind0", "worst address", fmt.Sprint("name", i), "the first")
		}
	}
	require.Len(t, lines(log), 64)
	counted.Close()
	got := lines(log)
	require.Len(t, got, 1)
	require.Less(t, len(got[0]), 1000)
	require.Contains(t, got[0], "kind0=25000")
	require.Contains(t, got[0], "others=99936")
	require.Contains(t, got[0], `addresses="worst address (25000)`)
	require.Contains(t, got[0], `names="worst (99936)`)
}

// Names that strangers make up make no line long.
func TestLongNames(t *testing.T) {
	counted, log := newTally()
	for range 3 {
		counted.Note("403", "", strings.Repeat("a", 1<<20)+".example", "the first")
	}
	counted.Close()
	require.Contains(t, log.String(), "aaa... (2)")
	require.Less(t, log.Len(), 1000)
}
