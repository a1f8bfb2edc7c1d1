package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/spf13/cobra"

	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/policy"
)

const purgeHelp = `Remove mail for good: all mail in a mailbox, from a server, or that would expire soon
anyway. Where several of these options are given, all must hold. It asks first. A server
that sends the same mail again within a day is told that it is stored, and it isn't. If it
is ended, a part of the mail is removed, and the same command goes on.

  relay purge --origin spammer.example
  relay purge --mailbox gone.example --yes`

// purging has the options of relay purge.
type purging struct {
	mailbox, origin string
	expires         lifetime
	dryRun, yes     bool
}

func newPurge() *cobra.Command {
	var p purging
	c := new(operating).command(&cobra.Command{Use: "purge", Short: "Remove mail", Long: purgeHelp, Args: noArgs}, p.run)
	f := c.Flags()
	f.StringVar(&p.mailbox, "mailbox", "", "mail in the mailbox with this `NAME`")
	f.StringVar(&p.origin, "origin", "", "mail from this `SERVERNAME`")
	f.Var(&p.expires, "expires-within", "mail that is kept for no longer than this `DURATION`, such as 36h or 7d")
	f.BoolVar(&p.dryRun, "dry-run", false, "count only")
	f.BoolVar(&p.yes, "yes", false, "don't ask")
	return c
}

func (p *purging) run(ctx context.Context, c *cobra.Command, operator admin.Operator, _ []string) error {
	which := admin.Purge{
		Mailbox: spec.ServerName(p.mailbox), Origin: spec.ServerName(p.origin),
		ExpiresMS: time.Duration(max(p.expires, 0)).Milliseconds(), DryRun: true,
	}
	if err := p.check(c, which); err != nil {
		return usageError{err}
	}
	if p.dryRun || !p.yes {
		found, err := admin.PurgeAll(ctx, operator, which, nil)
		if err != nil {
			return err
		}
		if p.dryRun {
			return showPurged(c, "would be removed", found)
		}
		question := fmt.Sprintf("Remove %d transactions, %s, for good?", found.Entries, bytesText(found.Bytes))
		if err := confirm(c, question); err != nil {
			return err
		}
	}
	which.DryRun = false
	bar := newProgress(c.ErrOrStderr())
	defer bar.end()
	removed, err := admin.PurgeAll(ctx, operator, which, func(sum admin.Purged) {
		bar.show(0, 0, fmt.Sprintf("%d transactions removed", sum.Entries))
	})
	if err != nil {
		return fmt.Errorf("%d transactions were removed, and then: %w", removed.Entries, err)
	}
	return showPurged(c, "were removed", removed)
}

// check refuses an option that is given and is empty, such as a variable of a script that
// isn't set: without it, more mail would be removed than was meant.
func (p *purging) check(c *cobra.Command, which admin.Purge) error {
	for name, empty := range map[string]bool{"mailbox": p.mailbox == "", "origin": p.origin == "", "expires-within": which.ExpiresMS == 0} {
		if c.Flags().Changed(name) && empty {
			return fmt.Errorf("--%s is empty, or less than a millisecond; leave it out if it doesn't matter", name)
		}
	}
	if which == (admin.Purge{DryRun: true}) {
		return errors.New("at least one of --mailbox, --origin and --expires-within is required")
	}
	return nil
}

func showPurged(c *cobra.Command, how string, p admin.Purged) error {
	return show(c, fmt.Sprintf("%d transactions, %s, %s", p.Entries, bytesText(p.Bytes), how), p)
}

// confirm asks a question, which must be answered with y.
func confirm(c *cobra.Command, question string) error {
	c.PrintErrf("%s [y/N] ", question)
	answer, _ := bufio.NewReader(c.InOrStdin()).ReadString('\n') // the end of the input is no, and so is a signal
	if answer := strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return errors.New("nothing was done; --yes doesn't ask")
	}
	return nil
}

func newBlock() *cobra.Command {
	var reason string
	c := new(operating).command(&cobra.Command{
		Use: "block SERVER|ADDRESS", Short: "Refuse a server or addresses", Args: oneArg("the server, address or network to block"),
		Long: "Refuse all requests of a server, or from an address or a network such as 192.0.2.0/24.\n*.example.org is all servers below example.org. Mail that is there stays: relay purge\nremoves it. A relay that runs on the same database follows within a minute.",
	}, func(ctx context.Context, c *cobra.Command, operator admin.Operator, args []string) error {
		kept, err := operator.Block(ctx, policy.Block{Entity: args[0], Reason: reason})
		if err != nil {
			return err
		}
		return show(c, kept.Entity+" is blocked", kept)
	})
	c.Flags().StringVar(&reason, "reason", "", "a `TEXT` for yourself")
	return c
}

func newUnblock() *cobra.Command {
	return new(operating).command(&cobra.Command{
		Use: "unblock SERVER|ADDRESS", Short: "End a block", Args: oneArg("the server, address or network that is blocked"),
	}, func(ctx context.Context, c *cobra.Command, operator admin.Operator, args []string) error {
		found, err := operator.Unblock(ctx, args[0])
		if err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("%s isn't blocked", args[0])
		}
		return show(c, args[0]+" isn't blocked any more", map[string]any{"entity": args[0], "found": true})
	})
}

func newBlocked() *cobra.Command {
	var p paging
	c := new(operating).command(&cobra.Command{
		Use: "blocked", Short: "List the blocks", Args: noArgs,
	}, func(ctx context.Context, c *cobra.Command, operator admin.Operator, _ []string) error {
		page, err := operator.Blocked(ctx, p.after, p.limit)
		if err != nil {
			return err
		}
		if len(page) > 0 {
			defer p.more(c, len(page), page[len(page)-1].Entity)
		}
		return showTable(c, page, "BLOCKED\tSINCE\tREASON", func(b policy.Block) string {
			return fmt.Sprintf("%s\t%s\t%q", b.Entity, b.Since.UTC().Format(time.DateTime), b.Reason)
		})
	})
	p.flags(c, "begin after this `NAME` or address")
	return c
}

const verifyHelp = `Read all mail and say what is damaged. The exit status is 5 if something is. A relay
that runs reads its own mail, and goes on serving meanwhile. With --offline a SQLite file is opened,
which repairs it as starting the relay does if it is damaged: keep a copy of it first.
Mail that can't be read stays where it is, and holds up nothing.`

func newVerify() *cobra.Command {
	return new(operating).command(&cobra.Command{Use: "verify", Short: "Read everything, to find damage", Long: verifyHelp, Args: noArgs},
		func(ctx context.Context, c *cobra.Command, operator admin.Operator, _ []string) error {
			status, err := operator.Status(ctx)
			if err != nil {
				return err
			}
			bar := newProgress(c.ErrOrStderr())
			defer bar.end()
			read := int64(0)
			all, err := admin.VerifyAll(ctx, operator, func(step admin.Verified) {
				read += step.Entries
				bar.show(read, status.Servers.Entries, fmt.Sprintf("%d of %d transactions", read, status.Servers.Entries))
			})
			if err != nil {
				return err
			}
			if err := show(c, verifiedText(all), all); err != nil || len(all.Damaged) == 0 {
				return err
			}
			return errProblems
		})
}

func verifiedText(v admin.Verified) string {
	text := fmt.Sprintf("%d transactions, %s, in %d mailboxes can be read", v.Entries, bytesText(v.Bytes), v.Mailboxes)
	for _, d := range v.Damaged {
		text += fmt.Sprintf("\nDAMAGED: %s: %d transactions can't be read", d.Mailbox, d.SetAside)
		if d.Error != "" {
			text += ", " + d.Error
		}
	}
	return text
}
