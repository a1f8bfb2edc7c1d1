package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/matrixrelay/relay/wire"
)

// The exit statuses of the program, which its help lists.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitRefused = 3
	exitLater   = 4
	exitProblem = 5
)

const rootHelp = `A Matrix relay, and what its operator does with it. A relay takes in transactions
for servers that can't be reached and keeps them until those servers fetch them.

The exit status is 0 if all went well, 1 if something failed, 2 if the command line
is wrong, 3 if another server refused it, 4 if that server can't be reached or asks to
try again later, and 5 if a relay has a problem or a database is damaged.

` + settingsHelp

// The groups of subcommands in the help.
const (
	groupRun     = "run"
	groupOperate = "operate"
	groupNode    = "node"
)

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use: "relay", Short: "A Matrix relay", Long: rootHelp, DisableFlagsInUseLine: true,
		SilenceErrors: true, SilenceUsage: true, // report does that
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{unknownCommand(c, args[0])}
			}
			return c.Help()
		},
	}
	root.PersistentFlags().Bool(jsonFlag, false, "print results as JSON, for programs")
	root.PersistentFlags().String(configFlag, "", "take options from this TOML `FILE`, too (default RELAY_CONFIG)")
	root.SuggestionsMinimumDistance = 1
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddGroup(&cobra.Group{ID: groupRun, Title: "To run a relay:"},
		&cobra.Group{ID: groupOperate, Title: "To look after one:"}, &cobra.Group{ID: groupNode, Title: "To try a relay out:"})
	root.PersistentPreRunE = newSettings().apply
	root.AddCommand(newServe(), newInvite(), newKeygen(), newMove(), newSend(), newFetch(), newBench(), newVersion())
	root.AddCommand(newStatus(), newMailboxes(), newMailbox(), newSenders(), newPurge(), newBlock(), newUnblock(), newBlocked(), newVerify(),
		newBackup(), newRestore(), newRepair(), newExport(), newImport())
	return root
}

// unknownCommand says so, and which ones have a similar name.
func unknownCommand(root *cobra.Command, name string) error {
	if similar := root.SuggestionsFor(name); len(similar) > 0 {
		return fmt.Errorf("there is no command %q; did you mean %s?", name, strings.Join(similar, " or "))
	}
	return fmt.Errorf("there is no command %q", name)
}

// noArgs refuses arguments that no flag belongs to.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}

// A usageError says that the command line is wrong.
type usageError struct{ error }

// Unwrap is for errors.As.
func (e usageError) Unwrap() error { return e.error }

// errLogged says that a command failed and that its log says why.
var errLogged = errors.New("failed")

// errProblems says that a command has shown problems of a relay.
var errProblems = errors.New("there are problems")

// report tells how a command ended, and returns the exit status for that.
func report(c *cobra.Command, err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errLogged):
		return exitFailed
	case errors.Is(err, errProblems):
		return exitProblem
	}
	c.PrintErrf("relay: %v\n", err)
	if errors.As(err, new(usageError)) {
		c.PrintErrf("%s --help explains the options\n", c.CommandPath())
		return exitUsage
	}
	return statusOf(err)
}

// statusOf is the exit status for an error.
func statusOf(err error) int {
	var answer *wire.Error
	switch {
	case errors.As(err, new(unreachable)):
		return exitLater
	case !errors.As(err, &answer):
		return exitFailed
	case answer.Status == http.StatusTooManyRequests, answer.Status >= http.StatusInternalServerError:
		return exitLater
	}
	return exitRefused
}

// unreachable says that another server didn't answer, or not as such servers do.
type unreachable struct{ error }

// Unwrap is for errors.As.
func (e unreachable) Unwrap() error { return e.error }
