package postgres

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

func (r *reader) destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	return inHalf(after, limit, func(first spec.ServerName, limit int) ([]spec.ServerName, error) {
		return r.names(ctx, "destinations", destinationsSQL, []byte(first), limit)
	})
}

// inHalf stays in the half of after. The private half is a span of names amid those of
// servers.
func inHalf(
	after spec.ServerName, limit int, from func(first spec.ServerName, limit int) ([]spec.ServerName, error),
) ([]spec.ServerName, error) {
	names, err := from(after+"\x00", limit)
	other := slices.IndexFunc(names, func(name spec.ServerName) bool { return store.IsPrivate(name) != store.IsPrivate(after) })
	if err != nil || other < 0 {
		return names, err
	}
	names = names[:other]
	if store.IsPrivate(after) || len(names) == limit {
		return names, nil
	}
	rest, err := from(afterPrivate, limit-len(names))
	return append(names, rest...), err
}

// afterPrivate is the first name behind the private ones.
const afterPrivate spec.ServerName = "\x7f"

// expired returns destinations that have mail that has expired, those of the
// oldest such mail.
func (r *reader) expired(ctx context.Context) ([]spec.ServerName, error) {
	return r.names(ctx, "expired", expiredSQL, r.clock.Now(), step)
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
	if destination == "" || destination == store.PrivateHalf {
		var total halves
		err = r.query(ctx, "usage", total.scan, totalSQL, shards)
		c := total[halfOf(destination)]
		return store.Usage{Entries: c.entries, Bytes: c.bytes, SetAside: c.setAside}, err
	}
	err = r.query(ctx, "usage", func(rows pgx.Rows) error {
		for rows.Next() { // none if there is no mailbox
			if err := rows.Scan(&u.Entries, &u.Bytes, &u.SetAside); err != nil {
				return err
			}
		}
		return nil
	}, usageSQL, []byte(destination))
	return u, err
}
