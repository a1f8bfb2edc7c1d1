package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

func (r *reader) destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	return r.names(ctx, "destinations", destinationsSQL, []byte(after), limit)
}

// expired returns destinations that have mail that has expired, those of the
// oldest such mail.
func (r *reader) expired(ctx context.Context) ([]spec.ServerName, error) {
	return r.names(ctx, "expired", expiredSQL, time.Now().UnixMilli(), step)
}

func (r *reader) names(ctx context.Context, doing, sql string, args ...any) ([]spec.ServerName, error) {
	names := []spec.ServerName{}
	err := r.query(ctx, doing, func(rows pgx.Rows) (err error) {
		names, err = pgx.AppendRows(names, rows, func(row pgx.CollectableRow) (spec.ServerName, error) {
			name, err := pgx.RowTo[[]byte](row)
			return spec.ServerName(name), err
		})
		return err
	}, sql, args...)
	if err != nil {
		return nil, err
	}
	return names, nil
}

func (r *reader) usage(ctx context.Context, destination spec.ServerName) (u store.Usage, err error) {
	statement, args := totalSQL, []any(nil)
	if destination != "" {
		statement, args = usageSQL, []any{[]byte(destination)}
	}
	err = r.query(ctx, "usage", func(rows pgx.Rows) error {
		for rows.Next() { // none if there is no mailbox
			if err := rows.Scan(&u.Entries, &u.Bytes, &u.SetAside); err != nil {
				return err
			}
		}
		return nil
	}, statement, args...)
	return u, err
}
