package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

func connect(ctx context.Context, connString string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(connString)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(connString, "default_query_exec_mode") {
		if config.ConnConfig.DefaultQueryExecMode, err = execMode(ctx, config.ConnConfig); err != nil {
			return nil, err
		}
	}
	config.ConnConfig.OnNotice = noteWarning
	return pgxpool.NewWithConfig(ctx, config)
}

// execMode returns how statements are best said. A pooler calls itself by
// another process ID than the server that it leads to. Through it descriptions
// are remembered, not statements: they hold on any connection, and parameters
// go as they are, not as text.
func execMode(ctx context.Context, config *pgx.ConnConfig) (mode pgx.QueryExecMode, err error) {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(ctx) }() // it has written nothing
	var pid uint32
	err = conn.QueryRow(ctx, `SELECT pg_catalog.pg_backend_pid()`, pgx.QueryExecModeSimpleProtocol).Scan(&pid)
	if err != nil {
		return 0, fmt.Errorf("ask for the process: %w", err)
	}
	if pid != conn.PgConn().PID() {
		return pgx.QueryExecModeCacheDescribe, nil
	}
	return pgx.QueryExecModeCacheStatement, nil
}

// warned is where a connection notes that the server has warned.
const warned = "relay: warned"

// noteWarning is called for everything that a server says beside its answers.
func noteWarning(conn *pgconn.PgConn, notice *pgconn.Notice) {
	if notice.SeverityUnlocalized == "WARNING" {
		conn.CustomData()[warned] = true
	}
}

func forgetWarnings(conn *pgx.Conn) { delete(conn.PgConn().CustomData(), warned) }

func hasWarned(conn *pgx.Conn) bool { return conn.PgConn().CustomData()[warned] != nil }
