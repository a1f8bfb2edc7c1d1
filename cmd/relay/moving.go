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

// moving has the command line's options on mail in another database.
type moving struct{ from string }

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
		return openStore(ctx, db, servers, log)
	}
	// A new file would be made where there is none.
	if !strings.Contains(m.from, "://") {
		if _, err := os.Stat(m.from); err != nil {
			return nil, fmt.Errorf("--move-from: %w", err)
		}
	}
	from, err := openStore(ctx, m.from, servers, log)
	if err != nil {
		return nil, fmt.Errorf("--move-from: %w", err)
	}
	to, err := openStore(ctx, db, servers, log)
	if err != nil {
		return nil, errors.Join(err, from.Close())
	}
	both, err := move.Open(ctx, from, to, move.Options{Logger: log})
	if err != nil {
		return nil, errors.Join(err, from.Close(), to.Close())
	}
	return both, nil
}
