package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"

	"github.com/nats-io/nats.go"

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

// openStore opens what -db says; credentials are a file for NATS, or empty.
func openStore(ctx context.Context, db, credentials string, log *slog.Logger) (store.Store, error) {
	switch {
	case db == inMemory:
		return memory.New(memory.Options{}), nil
	case isPostgres(db):
		return postgres.Open(ctx, postgres.Options{ConnString: db, Logger: log})
	case isNATS(db):
		o := jetstream.Options{URL: db, Logger: log}
		if credentials != "" {
			o.Connect = append(o.Connect, nats.UserCredentials(credentials))
		}
		return jetstream.Open(ctx, o)
	default:
		return sqlite.Open(db, sqlite.Options{Logger: log})
	}
}

// checkDB refuses URLs that can't be opened, as what would be said of them then
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

// withScheme adds what may be left out for all NATS servers but the first.
func withScheme(server string) string {
	if strings.Contains(server, "://") {
		return server
	}
	return "nats://" + server
}

// shownDB is the database without passwords and tokens: of a URL only what
// comes behind the last @ of them, without a query. No parser is asked, since
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
