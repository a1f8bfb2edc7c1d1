package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/spf13/pflag"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/jetstream"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/store/postgres"
	"github.com/matrixrelay/relay/store/sqlite"
)

// inMemory as the database keeps mail in memory only.
const inMemory = "memory:"

// isPostgres reports whether the database is a PostgreSQL server.
func isPostgres(db string) bool { return hasScheme(db, "postgres", "postgresql") }

// isNATS reports whether the database is one or more NATS servers.
func isNATS(db string) bool { return hasScheme(db, "nats", "tls") }

func hasScheme(db string, schemes ...string) bool {
	for _, scheme := range schemes {
		if strings.HasPrefix(db, scheme+"://") {
			return true
		}
	}
	return false
}

// openStore opens the database of --db for a command, which has no copies forgotten that
// the relay remembers.
func openStore(ctx context.Context, db string, servers natsFlags, log *slog.Logger) (store.Store, error) {
	return openRemembering(ctx, db, servers, -1, log)
}

// openRemembering opens the database of --db, which remembers so many copies.
func openRemembering(ctx context.Context, db string, servers natsFlags, copies count, log *slog.Logger) (store.Store, error) {
	most := int64(copies)
	switch {
	case db == inMemory:
		return memory.New(memory.Options{MaxCopies: most}), nil
	case isPostgres(db):
		return postgres.Open(ctx, postgres.Options{ConnString: db, MaxCopies: most, Logger: log})
	case isNATS(db):
		o := servers.options(db, log)
		o.MaxCopies = most
		return jetstream.Open(ctx, o)
	default:
		return sqlite.Open(db, sqlite.Options{MaxCopies: most, Logger: log})
	}
}

// backupFile is where backups of a database are made; empty for those that make none.
func backupFile(db string) string {
	if db == inMemory || strings.Contains(db, "://") {
		return ""
	}
	return db + "-backup"
}

// natsFlags are the command line's options on NATS besides where it is.
type natsFlags struct {
	credentials string
	server      string // the configuration of one to run
	max         size
}

func (n *natsFlags) flags(f *pflag.FlagSet) {
	n.max = -1
	n.clientFlags(f)
	f.StringVar(&n.server, "nats-server", "", "run a NATS server with this configuration `FILE`, too, for nats://;\n"+
		"it has every message on the disk before it acknowledges it, unless\nthe file has a sync_interval")
	f.Var(&n.max, "nats-max", "make the stream at nats:// for at most this `SIZE`, which each server\n"+
		"sets aside; then mail can be fetched when it is full, too")
}

// clientFlags are those of commands that only use servers.
func (n *natsFlags) clientFlags(f *pflag.FlagSet) {
	f.StringVar(&n.credentials, "nats-creds", "", "the credentials for nats://, a `FILE` with a JWT and a key")
}

func (n *natsFlags) check(databases ...string) error {
	if (n.credentials != "" || n.server != "" || n.max > 0) && !slices.ContainsFunc(databases, isNATS) {
		return errors.New("--nats-creds, --nats-server and --nats-max need a nats:// database")
	}
	return nil
}

func (n *natsFlags) options(url string, log *slog.Logger) jetstream.Options {
	o := jetstream.Options{URL: url, MaxBytes: int64(max(n.max, 0)), Logger: log}
	if n.credentials != "" {
		o.Connect = append(o.Connect, nats.UserCredentials(n.credentials))
	}
	return o
}

// checkDB refuses URLs that can't be opened, since an error of opening them
// has them in full. Flag is the option that they come from.
func checkDB(flag, db string) error {
	switch {
	case isNATS(db):
		for one := range strings.SplitSeq(db, ",") {
			if _, err := url.Parse(withScheme(strings.TrimSpace(one))); err != nil {
				return fmt.Errorf("%s: the URL of a NATS server is wrong", flag) // err shows its password
			}
		}
	case strings.Contains(db, "://") && !isPostgres(db):
		return fmt.Errorf("%s: a URL of a database begins with postgres://, nats:// or tls://", flag)
	}
	return nil
}

// withScheme adds the scheme, which all NATS servers but the first may leave out.
func withScheme(server string) string {
	if strings.Contains(server, "://") {
		return server
	}
	return "nats://" + server
}

// shownDB is the database without passwords and tokens: of a URL only the part
// behind the last @ of them, without a query. No parser is asked, since
// each has its own view of where a password ends.
func shownDB(db string) string {
	scheme, rest, isURL := strings.Cut(db, "://")
	if !isURL {
		return db
	}
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		if strings.Contains(rest[:at], "?") { // in a password, or a password behind it
			return scheme + "://xxxxx"
		}
		rest = "xxxxx@" + rest[at+1:]
	}
	rest, _, _ = strings.Cut(rest, "?")
	return scheme + "://" + rest
}
