package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/store/sqlite"
	"github.com/matrixrelay/relay/wire"
)

// piped runs a command in this process, with an input.
func piped(t *testing.T, c *cobra.Command, input string, args ...string) (output string, err error) {
	t.Helper()
	var out bytes.Buffer
	c.SetIn(strings.NewReader(input))
	c.SetOut(&out)
	c.SetErr(t.Output())
	c.SetArgs(args)
	c.SilenceErrors, c.SilenceUsage = true, true
	err = c.ExecuteContext(t.Context())
	return out.String(), err
}

// mailOf makes mail with names of odd bytes, in both halves.
func mailOf(t *testing.T) (all []store.Mail) {
	for i := range 300 {
		body := fmt.Appendf(nil, `{"pdus": [{"n": %d}]}`, i)
		content, err := wire.ReadContent(body)
		require.NoError(t, err)
		m := store.Mail{
			Destination: spec.ServerName(fmt.Sprint("d", i%3)), Origin: "a.example", TransactionID: gomatrixserverlib.TransactionID(fmt.Sprint("t<", i)),
			Digest: content.Digest, Body: body, Lifetime: time.Hour,
		}
		switch i % 10 {
		case 0:
			m.TransactionID, m.Proof, m.Lifetime = gomatrixserverlib.TransactionID(fmt.Sprint("\xff\x00", i)), []byte(`{"x":1}`), 0
		case 1:
			m.Destination = store.Private("outbox", m.Destination)
		}
		all = append(all, m)
	}
	return all
}

// contents are all mailboxes of a store, without IDs and lifetimes.
func contents(t *testing.T, s store.Store) map[spec.ServerName][]store.Mail {
	t.Helper()
	all := make(map[spec.ServerName][]store.Mail)
	for _, half := range []spec.ServerName{"", store.PrivateHalf} {
		names, err := s.Destinations(t.Context(), half, 100)
		require.NoError(t, err)
		for _, name := range names {
			entries, err := s.Next(t.Context(), name, 0, 1000, 1<<30)
			require.NoError(t, err)
			for _, e := range entries {
				require.Equal(t, strings.HasPrefix(string(e.TransactionID), "\xff"), e.Lifetime == 0)
				e.Lifetime = 0
				if len(e.Proof) == 0 {
					e.Proof = nil
				}
				all[name] = append(all[name], e.Mail)
			}
		}
	}
	return all
}

// Mail that is exported and imported is the same, in the same order, also if an import
// was cut off before, and is done once more.
func TestExportAndImport(t *testing.T) {
	from, to, want := database(t), database(t), memory.New(memory.Options{})
	defer func() { require.NoError(t, want.Close()) }()
	fill, err := sqlite.Open(from, sqlite.Options{})
	require.NoError(t, err)
	for _, m := range mailOf(t) {
		for _, s := range []store.Store{fill, want} {
			_, err := s.Put(context.Background(), m, store.Limits{})
			require.NoError(t, err)
		}
	}
	require.NoError(t, fill.Close())
	lines, err := piped(t, newExport(), "", "--db", from)
	require.NoError(t, err)
	require.Equal(t, 300, strings.Count(lines, "\n"))
	_, _, said := runTool(t, "export", "--db", from)
	require.Equal(t, "300 transactions were written\n", said, "a file that was cut off is compared with that")

	_, err = piped(t, newImport(), lines[:len(lines)/2], "--db", to) // in the middle of a line
	require.ErrorContains(t, err, "line 1")
	for range 2 {
		text, err := piped(t, newImport(), lines, "--db", to)
		require.NoError(t, err)
		require.Contains(t, text, "300 transactions were read; the database holds 300 now")
	}
	got, err := sqlite.Open(to, sqlite.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, got.Close()) }()
	require.Equal(t, contents(t, want), contents(t, got))
}

// Mail that was changed on the way is refused.
func TestImportOfChangedMail(t *testing.T) {
	whole := mailOf(t)[2]
	for want, change := range map[string]func(*exported){
		"line 2: the body: ":                   func(e *exported) { e.Body = nil },
		"the body: 400 M_NOT_JSON":             func(e *exported) { e.Body = []byte("{") },
		"it has another digest":                func(e *exported) { e.Body = []byte(`{"pdus":[]}`) },
		"the lifetime isn't":                   func(e *exported) { e.LifetimeMS = -1 },
		"line 2: the lifetime isn't one that ": func(e *exported) { e.LifetimeMS = 1 << 62 },
	} {
		line := exported{
			Destination: anyText(whole.Destination), Origin: anyText(whole.Origin), TransactionID: "1",
			Digest: whole.Digest[:], Body: whole.Body, LifetimeMS: whole.Lifetime.Milliseconds(),
		}
		good, err := json.Marshal(line)
		require.NoError(t, err)
		line.TransactionID = "2"
		change(&line)
		bad, err := json.Marshal(line)
		require.NoError(t, err)
		_, err = piped(t, newImport(), string(good)+"\n"+string(bad)+"\n", "--db", database(t))
		require.ErrorContains(t, err, want)
	}
}

// A line that isn't mail is refused, with its number.
func TestImportOfNonsense(t *testing.T) {
	for text, want := range map[string]string{
		"nonsense":            "line 1",
		`{"destination":"b"}`: "line 1: the digest hasn't 32 bytes",
		`{"destination":17}`:  "line 1",
		`{"digest":"` + strings.Repeat("A", 43) + `="}`: "line 1: store: invalid name",
	} {
		_, err := piped(t, newImport(), text+"\n", "--db", database(t))
		require.ErrorContains(t, err, want)
	}
	_, err := piped(t, newExport(), "", "--db", "nosuch.db")
	require.ErrorContains(t, err, "no such file")
	_, err = piped(t, newImport(), "", "--db", inMemory)
	require.ErrorContains(t, err, "--db is required")
}
