package postgres

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/aside"
)

// blocksAtOnce is how many blocks of the table one query goes through.
const blocksAtOnce = 8192

// sayEvery is how often it is said at most that something is damaged.
const sayEvery = time.Minute

// A spot is where the row of an entry is in the table.
type spot struct {
	mailbox, id int64
	until       int64
	live        bool
	at          string // ctid
}

// places finds the rows of a mailbox after that ID, in the order of their IDs,
// without an index: one is damaged. Pages of the table that can't be read either
// are passed over.
func (r *reader) places(ctx context.Context, destination spec.ServerName, after int64, why error) (found []spot, err error) {
	r.say(why)
	var mailbox, blocks int64
	err = r.queryAs(ctx, byTableSQL, "look for a mailbox", func(rows pgx.Rows) error {
		for rows.Next() {
			if err := rows.Scan(&mailbox, &blocks); err != nil {
				return err
			}
		}
		return nil
	}, whereSQL, []byte(destination))
	for first := int64(0); first < blocks && err == nil; first += blocksAtOnce {
		var part []spot
		part, err = r.placesIn(ctx, mailbox, after, first, min(first+blocksAtOnce, blocks))
		found = append(found, part...)
	}
	slices.SortFunc(found, func(a, b spot) int { return cmp.Compare(a.id, b.id) })
	return found, err
}

// placesIn looks into some blocks, and at each half of them if one is damaged.
func (r *reader) placesIn(ctx context.Context, mailbox, after, first, end int64) (found []spot, err error) {
	err = r.queryAs(ctx, byTableSQL, "look for entries", func(rows pgx.Rows) (err error) {
		found, err = pgx.AppendRows(found, rows, func(row pgx.CollectableRow) (p spot, err error) {
			p.mailbox = mailbox
			err = row.Scan(&p.id, &p.until, &p.live, &p.at)
			return p, err
		})
		return err
	}, placesSQL, first, end, mailbox, after)
	switch {
	case !isDamage(err):
		return found, err
	case end-first == 1:
		return nil, nil
	}
	middle := (first + end) / 2
	found, err = r.placesIn(ctx, mailbox, after, first, middle)
	if err != nil {
		return nil, err
	}
	rest, err := r.placesIn(ctx, mailbox, after, middle, end)
	return append(found, rest...), err
}

// livePlaces are those of the entries that a query is for.
func (r *reader) livePlaces(ctx context.Context, q aside.Query, why error) ([]spot, error) {
	now := r.clock.Now()
	found, err := r.places(ctx, q.Destination, q.After, why)
	found = slices.DeleteFunc(found, func(p spot) bool { return !p.live || p.until <= now })
	return found[:min(len(found), q.Entries)], err
}

// entryAt reads the row at a place.
func (r *reader) entryAt(ctx context.Context, destination spec.ServerName, p spot) (store.Entry, error) {
	return r.entry(ctx, destination, entryAtSQL, p.at, p.mailbox, p.id)
}

// say logs the damage, now and then.
func (r *reader) say(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.said) >= sayEvery {
		r.said = now
		r.log.Error("postgres: going through the whole table, since something is damaged", "error", why)
	}
}

// ackPlaces acknowledges without an index.
func (s *Store) ackPlaces(ctx context.Context, destination spec.ServerName, id int64, why error) (removed int, err error) {
	found, err := s.reader.places(ctx, destination, 0, why)
	if err != nil {
		return 0, err
	}
	last := slices.IndexFunc(found, func(p spot) bool { return p.id == id })
	return s.buryPlaces(ctx, destination, found[:last+1])
}

// buryPlaces removes the entries at these places, step by step.
func (s *Store) buryPlaces(ctx context.Context, destination spec.ServerName, places []spot) (removed int, err error) {
	for part := range slices.Chunk(places, step) {
		ids, at := make([]int64, len(part)), make([]string, len(part))
		for i, p := range part {
			ids[i], at[i] = p.id, p.at
		}
		r := removalOf(destination, "remove", ackAtSQL, at, ids)
		if err := s.writer.queue.Do(ctx, r, 0); err != nil {
			return removed, err
		}
		removed += r.removed
	}
	return removed, nil
}
