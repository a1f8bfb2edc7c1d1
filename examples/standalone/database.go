package main

import (
	"context"
	"log/slog"
	"net/url"
	"regexp"
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

// secrets are what stands before the @ of a NATS URL: a password or a token.
var secrets = regexp.MustCompile(`://[^/,]*@`)

// shownDB is the database without a password.
func shownDB(db string) string {
	if isNATS(db) {
		return secrets.ReplaceAllString(db, "://xxxxx@")
	}
	if u, err := url.Parse(db); isPostgres(db) && err == nil {
		u.RawQuery = "" // a password may be there, too
		return u.Redacted()
	}
	return db
}
