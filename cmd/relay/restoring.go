package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/matrixrelay/relay/store/sqlite"
)

const (
	restoreHelp = `Put a copy that relay backup made in the place of a SQLite database that no relay uses.
A database that is there is replaced only with --replace; it is kept as DATABASE-before, and
none may be there from an earlier time. If this is ended at any moment, the old database is
there or the new one. Entry IDs go on after all that were given before, if the machine's clock
is right, so no old acknowledgement removes mail.

  relay restore /var/backups/relay/relay.db --db relay.db --replace`

	repairHelp = `Build a SQLite database that no relay uses anew from all that can be read of it. A relay
does this by itself when it finds damage at its start; this command also takes a file whose end is
missing, or of which the disk doesn't give all. It says what was lost, and the exit status is 5
then; the damaged file is kept as DATABASE-damaged. It needs as much room again. If it is ended
at any moment, the old database is there or the new one.`
)

// sqliteFile is the database of commands on the files of SQLite.
type sqliteFile struct{ db string }

func (o *sqliteFile) command(c *cobra.Command, run func(c *cobra.Command, args []string) error) *cobra.Command {
	c.GroupID = groupOperate
	c.RunE = func(c *cobra.Command, args []string) error {
		if o.db == "" || o.db == inMemory || strings.Contains(o.db, "://") {
			return usageError{errors.New("--db must be the file of a SQLite database; PostgreSQL and NATS have tools of their own")}
		}
		return run(c, args)
	}
	c.Flags().StringVar(&o.db, "db", "relay.db", "the `FILE` of the database")
	return c
}

func newRestore() *cobra.Command {
	var o sqliteFile
	var replace bool
	c := o.command(&cobra.Command{Use: "restore FILE", Short: "Bring a backup back", Long: restoreHelp, Args: oneArg("the FILE of the backup")},
		func(c *cobra.Command, args []string) error { return o.restore(c, args[0], replace) })
	c.Flags().BoolVar(&replace, "replace", false, "replace the database that is there")
	return c
}

func (o *sqliteFile) restore(c *cobra.Command, backup string, replace bool) error {
	bar := newProgress(c.ErrOrStderr())
	err := sqlite.Restore(c.Context(), backup, o.db, sqlite.RestoreOptions{Replace: replace, Progress: func(done, all int64) {
		bar.show(done, all, fmt.Sprintf("%s of %s", bytesText(done), bytesText(all)))
	}})
	bar.end()
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: --replace replaces it", err)
	}
	if err != nil {
		return err
	}
	return o.showHeld(c, "restored", nil)
}

// showHeld opens the database, so that it is seen to work, and shows how much it holds.
func (o *sqliteFile) showHeld(c *cobra.Command, how string, more map[string]any) (err error) {
	log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	mail, err := sqlite.Open(o.db, sqlite.Options{MaxCopies: -1, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mail.Close()) }()
	held, err := holds(context.WithoutCancel(c.Context()), mail) // the work is done
	if err != nil {
		return err
	}
	result := map[string]any{"db": o.db, "entries": held.Entries, "bytes": held.Bytes}
	for name, value := range more {
		result[name] = value
	}
	return show(c, fmt.Sprintf("%s is %s and holds %d transactions, %s", o.db, how, held.Entries, bytesText(held.Bytes)), result)
}

func newRepair() *cobra.Command {
	var o sqliteFile
	return o.command(&cobra.Command{Use: "repair", Short: "Save what can be read of a damaged database", Long: repairHelp, Args: noArgs},
		func(c *cobra.Command, _ []string) error { return o.repair(c) })
}

func (o *sqliteFile) repair(c *cobra.Command) error {
	repaired, err := sqlite.Repair(o.db)
	if err != nil {
		return err
	}
	losses := lossesOf(repaired)
	if err := o.showHeld(c, "repaired", map[string]any{"kept": repaired.Kept, "lost": losses, "damaged": repaired.Damaged}); err != nil {
		return err
	}
	if len(losses) == 0 {
		return nil
	}
	c.PrintErrf("lost: %s; the damaged file is %s\n", strings.Join(losses, ", "), repaired.Damaged)
	return errProblems
}

// lossesOf names the losses of a repair in words.
func lossesOf(r sqlite.Repaired) []string {
	losses := []string{}
	for _, loss := range []struct {
		count int
		words string
	}{
		{r.Unreadable, "%d rows that can't be read"},
		{r.BrokenPages, "rows on %d damaged pages, as far as they don't prove themselves"},
		{r.UnreadPages, "%d pages that the disk doesn't give"},
	} {
		if loss.count > 0 {
			losses = append(losses, fmt.Sprintf(loss.words, loss.count))
		}
	}
	if r.Cut {
		losses = append(losses, "the end of the file, which is missing")
	}
	return losses
}
