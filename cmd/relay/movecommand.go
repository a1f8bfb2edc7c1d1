package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/spf13/cobra"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/move"
)

const moveHelp = `Move all mail of a database into another, while no relay uses either: relay serve
--move-from does it with a running relay. If it is ended, the same command goes on.

  relay move --move-from relay.db --db postgres://relay@db.example/relay

For a day after it, start the relay with --move-from, too. Without that, mail that was
fetched before the move and is sent again may count as new mail.

With --destination it moves one mailbox, out of a running relay, whose --admin it needs,
into the database of another one, which is stopped meanwhile. A proxy in front of both must
answer requests for that mailbox with 503 until the other relay has it: docs/operating.md
has all steps.

  relay move --destination b.example --admin unix:/var/lib/relay-0/relay.db-admin \
    --db /var/lib/relay-1/relay.db`

// A moveCommand has the options of relay move.
type moveCommand struct {
	moving
	db          string
	nats        natsFlags
	destination string
	admin       adminFlags // of the relay that has the destination's mailbox
}

func newMove() *cobra.Command {
	m := moveCommand{moving: moving{copies: -1}} // the relay forgets those that are too many
	c := &cobra.Command{Use: "move", Short: "Move mail to another database", Long: moveHelp, GroupID: groupRun, Args: noArgs, RunE: m.run}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&m.from, "move-from", "", "move the mail of this `DATABASE`")
	f.StringVar(&m.destination, "destination", "", "move the mailbox of this `SERVERNAME` only, from the relay at --admin")
	m.admin.clientFlags(f, "")
	f.StringVar(&m.db, "db", "", "to this `DATABASE` (required)")
	m.nats.flags(f)
	return c
}

func (m *moveCommand) check() error {
	if m.destination != "" {
		return m.checkDestination()
	}
	if m.from == "" || m.db == "" {
		return errors.New("--move-from and --db are required")
	}
	if m.db == inMemory {
		return errors.New("--db: mail that is moved into memory is lost")
	}
	return errors.Join(checkDB("--db", m.db), m.moving.check(m.db), m.nats.check(m.db, m.from))
}

func (m *moveCommand) run(c *cobra.Command, _ []string) (err error) {
	if err := m.check(); err != nil {
		return usageError{err}
	}
	ctx, log := c.Context(), slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	if m.nats.server != "" {
		server, err := startNATS(ctx, m.nats.server, log)
		if err != nil {
			return err
		}
		defer server.stop()
	}
	if m.destination != "" {
		return m.moveMailbox(c, log)
	}
	from, to, err := m.openBoth(ctx, m.db, m.nats, log)
	if err != nil {
		return err
	}
	both, err := move.Open(ctx, from, to, move.Options{Logger: log})
	if err != nil {
		return errors.Join(err, from.Close(), to.Close())
	}
	defer func() { err = errors.Join(err, both.Close()) }()
	bar := newProgress(c.ErrOrStderr())
	defer bar.end()
	if err := waitMoved(ctx, both, from, bar); err != nil {
		return err
	}
	return m.showResult(c, from, to)
}

// showResult shows how much is there now, and whether anything couldn't be read.
func (m *moveCommand) showResult(c *cobra.Command, from, to store.Store) error {
	left, err := holds(c.Context(), from)
	if err != nil {
		return err
	}
	now, err := holds(c.Context(), to)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("all mail is in %s now, which holds %d transactions of %d bytes", shownDB(m.db), now.Entries, now.Bytes)
	if left.SetAside > 0 {
		text += fmt.Sprintf("; %d that couldn't be read are left behind", left.SetAside)
	}
	return show(c, text, map[string]any{"db": shownDB(m.db), "entries": now.Entries, "bytes": now.Bytes, "unreadable": left.SetAside})
}

// holds is how much both halves of a store hold.
func holds(ctx context.Context, s store.Store) (sum store.Usage, err error) {
	for _, half := range []spec.ServerName{"", store.PrivateHalf} {
		usage, err := s.Usage(ctx, half)
		if err != nil {
			return sum, err
		}
		sum.Entries, sum.Bytes, sum.SetAside = sum.Entries+usage.Entries, sum.Bytes+usage.Bytes, sum.SetAside+usage.SetAside
	}
	return sum, nil
}

// waitMoved waits until all mail is moved.
func waitMoved(ctx context.Context, both *move.Store, from store.Store, bar *progress) error {
	before, err := holds(ctx, from)
	if err != nil {
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		left, err := holds(ctx, from)
		if err != nil {
			return err
		}
		done := before.Entries - left.Entries
		bar.show(done, before.Entries, fmt.Sprintf("%d of %d transactions", done, before.Entries))
		select {
		case <-both.Done():
			return nil
		case <-both.Failed():
			return both.Failure()
		case <-ctx.Done():
			return fmt.Errorf("not all mail is moved yet: %w", ctx.Err())
		case <-tick.C:
		}
	}
}
