package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/wire"
)

// operating has the options of commands that act on a relay as its operator: on one that
// runs, or on a database that none uses.
type operating struct {
	admin   adminFlags
	offline bool
	db      string
	nats    natsFlags
}

func (o *operating) flags(f *pflag.FlagSet) {
	f.SortFlags = false
	o.admin.clientFlags(f, " (default unix: and the name of the database's\nfile with -admin)")
	f.BoolVar(&o.offline, "offline", false, "no relay uses the database: open that itself")
	f.StringVar(&o.db, "db", "relay.db", "the relay's `DATABASE`: see relay serve")
	o.nats.clientFlags(f)
}

// command makes a command that does something with an Operator.
func (o *operating) command(c *cobra.Command, do func(ctx context.Context, c *cobra.Command, operator admin.Operator, args []string) error) *cobra.Command {
	c.GroupID = groupOperate
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		operator, closeOperator, err := o.open(c)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closeOperator()) }()
		return o.explain(do(c.Context(), c, operator, args))
	}
	o.flags(c.Flags())
	return c
}

func (o *operating) open(c *cobra.Command) (admin.Operator, func() error, error) {
	if o.offline {
		return o.openStore(c)
	}
	address := o.admin.resolve(o.db)
	if address == "" {
		return nil, nil, usageError{errors.New("--admin is required: where is the operator's interface of the relay? Or no relay uses the database: --offline")}
	}
	client, err := o.admin.connect(address)
	if err != nil {
		return nil, nil, err
	}
	return client, client.Close, nil
}

// openStore opens the database, which must be there.
func (o *operating) openStore(c *cobra.Command) (admin.Operator, func() error, error) {
	if err := errors.Join(checkDB("--db", o.db), o.nats.check(o.db)); err != nil {
		return nil, nil, usageError{err}
	}
	log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	mail, err := openExisting(c.Context(), o.db, o.nats, log)
	if err != nil {
		return nil, nil, fmt.Errorf("--db: %w", err)
	}
	blocks, err := policy.NewBlocklist(c.Context(), mail)
	if err != nil {
		return nil, nil, errors.Join(err, mail.Close())
	}
	desk, err := admin.New(admin.Config{Store: mail, Blocklist: blocks, Version: thisBuild().Version, BackupFile: backupFile(o.db), Logger: log})
	if err != nil {
		return nil, nil, errors.Join(err, mail.Close())
	}
	return desk, mail.Close, nil
}

// explain says what to do where no relay answers.
func (o *operating) explain(err error) error { return explainUnanswered(o.admin.resolve(o.db), err) }

func explainUnanswered(address string, err error) error {
	if unanswered := new(net.OpError); errors.As(err, &unanswered) {
		return unreachable{fmt.Errorf("no relay answers at %s, so none runs there, or its --admin is another: %w", address, err)}
	}
	if late := net.Error(nil); errors.As(err, &late) && late.Timeout() {
		return unreachable{fmt.Errorf("the relay at %s doesn't answer in time: %w", address, err)}
	}
	return err
}

// nameOf reads the name of a server or of a mailbox.
func nameOf(arg string) (spec.ServerName, error) {
	if strings.HasPrefix(arg, "~") { // the embedder's own
		return spec.ServerName(arg), nil
	}
	if err := wire.CheckName(spec.ServerName(arg)); err != nil {
		return "", usageError{fmt.Errorf("%q: %w", arg, err)}
	}
	return spec.ServerName(arg), nil
}
