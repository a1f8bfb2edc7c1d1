package sqlite

import (
	"context"
	"fmt"
)

// checkedBytes is up to which size a database is checked whole when it is opened:
// that takes up to 50 ms for each MiB, if mail is small.
const checkedBytes = 32 << 20

// checkDatabase says what is damaged in the database, if it finds something. In
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

// countChecks list counts that aren't those of the entries.
var countChecks = []struct{ of, query string }{
	{"mailbox", `SELECT id, entries, bytes FROM mailbox WHERE entries > 0`},
	{"mailbox", `SELECT mailbox, count(*), sum(size) FROM entry WHERE state = 0 GROUP BY mailbox`},
	{"aside", `SELECT id, set_aside FROM mailbox WHERE set_aside > 0`},
	{"aside", `SELECT mailbox, count(*) FROM entry WHERE state = 2 GROUP BY mailbox`},
	{"share", `SELECT mailbox, origin, entries, bytes FROM share`},
	{"share", `SELECT mailbox, origin, count(*), sum(size) FROM entry WHERE state = 0 GROUP BY mailbox, origin`},
	{"total", `SELECT entries + private_entries, bytes + private_bytes, set_aside + private_set_aside FROM total`},
	{"total", `SELECT coalesce(sum(entries), 0), coalesce(sum(bytes), 0), coalesce(sum(set_aside), 0) FROM mailbox`},
}

func (w *writer) checkCounts(ctx context.Context) error {
	for i := 0; i < len(countChecks); i += 2 {
		for _, pair := range [][2]string{
			{countChecks[i].query, countChecks[i+1].query},
			{countChecks[i+1].query, countChecks[i].query},
		} {
			var wrong int64
			query := "SELECT count(*) FROM (" + pair[0] + " EXCEPT " + pair[1] + ")"
			if err := w.conn.QueryRowContext(ctx, query).Scan(&wrong); err != nil {
				return err
			}
			if wrong > 0 {
				return fmt.Errorf("%w: counts of %s aren't those of the entries", errDamaged, countChecks[i].of)
			}
		}
	}
	return nil
}
