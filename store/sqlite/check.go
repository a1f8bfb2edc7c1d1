package sqlite

import (
	"context"
	"fmt"
)

// checkedBytes is the largest size of a database that is checked whole when it is
// opened: that takes up to 50 ms for each MiB, if mail is small.
const checkedBytes = 32 << 20

// checkDatabase fails with the damage in the database that it finds, if any. In
// a large one it looks at the mailboxes only.
func (w *writer) checkDatabase(ctx context.Context) error {
	pages, err := pragma[int64](ctx, w.conn, "page_count")
	if err != nil {
		return err
	}
	size, err := sizeOf(w.files.path)
	if err != nil {
		return err
	}
	check, isSmall := "integrity_check(mailbox)", max(size, pages*pageSize) <= checkedBytes
	if isSmall || size > pages*pageSize {
		check = "integrity_check(1)"
	}
	found, err := pragma[string](ctx, w.conn, check)
	if err != nil {
		return err
	}
	if found != "ok" {
		return fmt.Errorf("%w: %s", errDamaged, found)
	}
	if !isSmall {
		return nil
	}
	return w.checkCounts(ctx)
}

// countChecks list the counts that are kept, and those of the entries.
var countChecks = []struct{ of, kept, counted string }{{
	"mailbox", `SELECT id, entries, bytes FROM mailbox WHERE entries > 0`,
	`SELECT mailbox, count(*), sum(size) FROM entry WHERE state = 0 GROUP BY mailbox`,
}, {
	"aside", `SELECT id, set_aside FROM mailbox WHERE set_aside > 0`,
	`SELECT mailbox, count(*) FROM entry WHERE state = 2 GROUP BY mailbox`,
}, {
	"share", `SELECT mailbox, origin, entries, bytes FROM share`,
	`SELECT mailbox, origin, count(*), sum(size) FROM entry WHERE state = 0 GROUP BY mailbox, origin`,
}, {
	"total", `SELECT entries + private_entries, bytes + private_bytes, set_aside + private_set_aside FROM total`,
	`SELECT coalesce(sum(entries), 0), coalesce(sum(bytes), 0), coalesce(sum(set_aside), 0) FROM mailbox`,
}}

func (w *writer) checkCounts(ctx context.Context) error {
	for _, c := range countChecks {
		for _, differ := range []string{c.kept + " EXCEPT " + c.counted, c.counted + " EXCEPT " + c.kept} {
			var wrong int64
			if err := w.conn.QueryRowContext(ctx, "SELECT count(*) FROM ("+differ+")").Scan(&wrong); err != nil {
				return err
			}
			if wrong > 0 {
				return fmt.Errorf("%w: counts of %s aren't those of the entries", errDamaged, c.of)
			}
		}
	}
	return nil
}
