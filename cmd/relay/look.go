package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/spf13/cobra"

	"github.com/matrixrelay/relay/admin"
)

func newStatus() *cobra.Command {
	var o operating
	var alive bool
	c := o.command(&cobra.Command{
		Use: "status", Short: "Show how a relay is", Args: noArgs,
		Long: "Show how full a relay is, for how long it has run, and what is wrong with it. The exit\nstatus is 5 if something is.",
	}, func(ctx context.Context, c *cobra.Command, operator admin.Operator, _ []string) error {
		s, err := operator.Status(ctx)
		if err != nil {
			return err
		}
		if err := show(c, statusText(s), s); err != nil {
			return err
		}
		if s.MustRestart || len(s.Problems) > 0 && !alive {
			return errProblems
		}
		return nil
	})
	c.Flags().BoolVar(&alive, "alive", false, "the exit status is 5 only if nothing but a restart helps, for programs that\nstart the relay again then")
	return c
}

func statusText(s *admin.Status) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(name, value string) { _, _ = fmt.Fprintf(w, "%s\t%s\n", name, value) } // into memory
	if s.ServerName != "" {
		row("relay", fmt.Sprintf("%s, version %s, up for %v", s.ServerName, s.Version, s.Now.Sub(s.Started).Round(time.Second)))
	}
	row("mail", heldText(s.Servers, s.MaxEntries, s.MaxBytes))
	if s.Private.Entries > 0 {
		row("own queues", heldText(s.Private, 0, 0))
	}
	if s.Files != nil {
		row("files", fmt.Sprintf("%s, and a log of %s", bytesText(s.Files.Database), bytesText(s.Files.Log)))
	}
	if s.Copies != nil {
		row("remembered", fmt.Sprintf("%d transactions, to recognise copies", *s.Copies))
	}
	if s.Backups {
		row("backup", backupText(s))
	}
	if lately := s.Activity; lately != nil {
		hour := lately.Hour.Sum()
		row("last hour", fmt.Sprintf("%d transactions stored, %d fetched, %d requests refused", hour.Stored, hour.Acknowledged, hour.Refused))
		row("waiting", fmt.Sprintf("%d receivers of %d", lately.Waiting, lately.MaxWaiting))
	}
	for _, problem := range s.Problems {
		row("PROBLEM", problem)
	}
	if len(s.Problems) == 0 {
		row("problems", "none")
	}
	_ = w.Flush() // likewise
	return strings.TrimSuffix(text.String(), "\n")
}

// backupText says when the last backup was made.
func backupText(s *admin.Status) string {
	if s.LastBackup.IsZero() {
		return "none was made"
	}
	return fmt.Sprintf("%s UTC, %v ago", s.LastBackup.UTC().Format(time.DateTime), s.Now.Sub(s.LastBackup))
}

// heldText says how much mail there is, and how much there may be if that isn't 0.
func heldText(h admin.Held, maxEntries, maxBytes int64) string {
	text := fmt.Sprintf("%d transactions", h.Entries)
	if maxEntries > 0 {
		text += fmt.Sprintf(" of %d", maxEntries)
	}
	if text += ", " + bytesText(h.Bytes); maxBytes > 0 {
		text += " of " + bytesText(maxBytes)
	}
	if h.SetAside > 0 {
		text += fmt.Sprintf(", and %d that can't be read", h.SetAside)
	}
	return text
}

// bytesText is a number of bytes for people.
func bytesText(n int64) string {
	for _, unit := range []struct {
		size float64
		name string
	}{{1e12, "TB"}, {1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}} {
		if float64(n) >= unit.size {
			return fmt.Sprintf("%.1f %s", float64(n)/unit.size, unit.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

// A paging has the options of commands that show a page.
type paging struct {
	after string
	limit int
}

func (p *paging) flags(c *cobra.Command, after string) {
	c.Flags().StringVar(&p.after, "after", "", after)
	c.Flags().IntVar(&p.limit, "limit", admin.DefaultPage, fmt.Sprintf("show at most this `NUMBER`, up to %d", admin.MaxPage))
}

// more says how to get the next page, if this one is full. It's for people only.
func (p *paging) more(c *cobra.Command, shown int, last any) {
	if shown > 0 && shown >= min(p.limit, admin.MaxPage) {
		c.PrintErrf("there may be more: --after %v\n", last)
	}
}

func newMailboxes() *cobra.Command {
	var o operating
	var p paging
	var origin string
	var private, unfetched bool
	c := o.command(&cobra.Command{
		Use: "mailboxes", Short: "List the mailboxes that have mail", Args: noArgs,
		Long: "List the mailboxes that have mail, in the order of their names. relay mailbox shows one.",
	}, func(ctx context.Context, c *cobra.Command, operator admin.Operator, _ []string) error {
		page, err := operator.Mailboxes(ctx, admin.MailboxQuery{
			After: spec.ServerName(p.after), Limit: p.limit, Origin: spec.ServerName(origin), Unfetched: unfetched, Private: private,
		})
		if err != nil {
			return err
		}
		if len(page) > 0 {
			defer p.more(c, len(page), page[len(page)-1].Name)
		}
		return showTable(c, page, "MAILBOX\tTRANSACTIONS\tBYTES\tUNREADABLE\tFETCHED", func(m admin.Mailbox) string {
			return fmt.Sprintf("%s\t%d\t%d\t%d\t%s", m.Name, m.Entries, m.Bytes, m.SetAside, fetchText(&m))
		})
	})
	p.flags(c, "begin after this `NAME`")
	c.Flags().StringVar(&origin, "origin", "", "only those that have mail from this `SERVERNAME`")
	c.Flags().BoolVar(&unfetched, "unfetched", false, "only those whose server hasn't asked for its mail since the relay was started,\nas far as it knows")
	c.Flags().BoolVar(&private, "private", false, "the queues of the program that the relay is in")
	return c
}

// fetchText says when a mailbox was last fetched.
func fetchText(m *admin.Mailbox) string {
	switch {
	case m.LastFetch != nil:
		return m.LastFetch.UTC().Format(time.DateTime)
	case m.NotSince != nil:
		return "not since " + m.NotSince.UTC().Format(time.DateTime)
	}
	return "?"
}

func newMailbox() *cobra.Command {
	var o operating
	var q admin.EntryQuery
	c := o.command(&cobra.Command{
		Use: "mailbox NAME", Short: "Show the mail in a mailbox", Args: oneArg("the NAME of the mailbox"),
		Long: "Show the mail that waits in a mailbox, oldest first: where it is from, how large, for how\nlong it is kept, and whether it has a proof of its origin.",
	}, func(ctx context.Context, c *cobra.Command, operator admin.Operator, args []string) error {
		var err error
		if q.Mailbox, err = nameOf(args[0]); err != nil {
			return err
		}
		page, err := operator.Entries(ctx, q)
		if err != nil {
			return err
		}
		if len(page) > 0 {
			p := paging{limit: q.Limit}
			defer p.more(c, len(page), page[len(page)-1].ID)
		}
		return showTable(c, page, "ID\tFROM\tTRANSACTION ID\tBYTES\tPROOF\tKEPT FOR", entryText)
	})
	c.Flags().Int64Var(&q.After, "after", 0, "begin after the transaction with this `ID`")
	c.Flags().IntVar(&q.Limit, "limit", admin.DefaultPage, fmt.Sprintf("show at most this `NUMBER`, up to %d", admin.MaxPage))
	c.Flags().BoolVar(&q.Bodies, "bodies", false, "show the transactions, too")
	return c
}

func entryText(e admin.Entry) string {
	proof, kept := "no", "ever"
	if e.Proven {
		proof = "yes"
	}
	if e.ExpiresMS > 0 {
		kept = (time.Duration(e.ExpiresMS) * time.Millisecond).Round(time.Minute).String()
	}
	text := fmt.Sprintf("%d\t%s\t%q\t%d\t%s\t%s", e.ID, e.Origin, e.TransactionID, e.Bytes, proof, kept)
	if len(e.Body) > 0 {
		text += "\n" + string(e.Body)
	}
	return text
}

func newSenders() *cobra.Command {
	var o operating
	var mailbox string
	var limit int
	c := o.command(&cobra.Command{
		Use: "senders", Short: "List the servers that have left most mail", Args: noArgs,
		Long: "List the servers whose mail takes most room, largest first. relay purge removes mail of\none, relay block refuses more of it.",
	}, func(ctx context.Context, c *cobra.Command, operator admin.Operator, _ []string) error {
		page, err := operator.Senders(ctx, spec.ServerName(mailbox), limit)
		if err != nil {
			return err
		}
		return showTable(c, page, "FROM\tTRANSACTIONS\tBYTES\tMAILBOXES", func(s admin.Sender) string {
			return fmt.Sprintf("%s\t%d\t%d\t%d", s.Origin, s.Entries, s.Bytes, s.Mailboxes)
		})
	})
	c.Flags().StringVar(&mailbox, "mailbox", "", "only mail in the mailbox with this `NAME`")
	c.Flags().IntVar(&limit, "limit", admin.DefaultPage, fmt.Sprintf("show at most this `NUMBER`, up to %d", admin.MaxPage))
	return c
}

// showTable shows a list: a table for people, or JSON.
func showTable[T any](c *cobra.Command, list []T, head string, row func(T) string) error {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	_, _ = io.WriteString(w, head+"\n") // into memory
	for _, one := range list {
		_, _ = io.WriteString(w, row(one)+"\n")
	}
	_ = w.Flush()
	return show(c, strings.TrimSuffix(text.String(), "\n"), append([]T{}, list...))
}
