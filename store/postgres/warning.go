package postgres

import (
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// warned is where a connection notes that the server has warned.
const warned = "relay: warned"

// noteWarning is told of what a server says beside its answers.
func noteWarning(conn *pgconn.PgConn, notice *pgconn.Notice) {
	if notice.SeverityUnlocalized == "WARNING" {
		conn.CustomData()[warned] = true
	}
}

func forgetWarnings(conn *pgx.Conn) { delete(conn.PgConn().CustomData(), warned) }

func hasWarned(conn *pgx.Conn) bool { return conn.PgConn().CustomData()[warned] != nil }
