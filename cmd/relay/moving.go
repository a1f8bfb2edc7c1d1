package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/move"
)

// moving has the command line's options on mail in another database, and how many copies
// the database of the relay remembers.
type moving struct {
	from   string
	copies count
}

func (m *moving) flags(f *pflag.FlagSet) {
	f.StringVar(&m.from, "move-from", "", "move the mail of this `DATABASE` (of any kind that --db takes) into --db\n"+
		"while serving, from where it was left off if there was a move before.\n"+
		"Leave the option out when the log says that the old store isn't needed\n"+
		"any more (default nothing is moved)")
}

func (m *moving) check(db string) error {
	switch m.from {
	case "":
		return nil
	case inMemory:
		return errors.New("--move-from: there is nothing in memory")
	case db:
		return errors.New("--move-from and --db are the same database")
	}
	return checkDB("--move-from", m.from)
}

// open opens the database of the relay, and moves mail into it that is to be moved.
func (m *moving) open(ctx context.Context, db string, servers natsFlags, log *slog.Logger) (store.Store, error) {
	if m.from == "" {
		return openRemembering(ctx, db, servers, m.copies, log)
	}
	from, to, err := m.openBoth(ctx, db, servers, log)
	if err != nil {
		return nil, err
	}
	both, err := move.Open(ctx, from, to, move.Options{Logger: log})
	if err != nil {
		return nil, errors.Join(err, from.Close(), to.Close())
	}
	return both, nil
}

// openBoth opens the old database and the new one.
func (m *moving) openBoth(ctx context.Context, db string, servers natsFlags, log *slog.Logger) (from, to store.Store, err error) {
	if from, err = openExisting(ctx, m.from, servers, log); err != nil {
		return nil, nil, fmt.Errorf("--move-from: %w", err)
	}
	if to, err = openRemembering(ctx, db, servers, m.copies, log); err != nil {
		return nil, nil, errors.Join(err, from.Close())
	}
	return from, to, nil
}

// openExisting opens a database. It makes no new file where there is none.
func openExisting(ctx context.Context, db string, servers natsFlags, log *slog.Logger) (store.Store, error) {
	if !strings.Contains(db, "://") {
		if _, err := os.Stat(db); err != nil {
			return nil, err
		}
	}
	return openStore(ctx, db, servers, log)
}
