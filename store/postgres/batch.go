package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store/internal/seal"
	"github.com/matrixrelay/relay/store/internal/steady"
)

// A batch is one transaction, in two round trips. The first locks the mailboxes,
// in the order of their names so that nobody waits in a circle, removes entries that
// are to go and reads everything that the rest depends on; the second writes the
// changes that were decided on that, and commits.
//
// While a mailbox is locked nobody else gives out its IDs, so they become
// visible in their order, and nobody else adds to it or takes from it.
type batch struct {
	batchOptions
	now    int64 // on the store's clock
	forget int64 // when copies of mail that is removed now are forgotten
	exact  bool  // holds the lock of the whole store
	noRoom bool  // the disk has none for more mail
	shard  int   // where it is counted
	server string
	lastID int64 // that was given

	mailboxes map[spec.ServerName]*mailbox
	byID      map[int64]*mailbox
	known     map[seal.Key]int64 // the IDs of mail that is or was stored
	freeIDs   []int64
	touched   [2]bool // the halves in which it has mailboxes
	total     halves  // of the store, without the batch's changes
	change    halves

	entries columns
	buried  []burial
	notes   map[string][]byte
	woken   map[spec.ServerName]struct{}

	setBack    bool // the server gives IDs that it has given before
	knowsTotal bool
	tight      bool // the store is too full to add to it without the lock
}

// batchOptions are the same for all batches of a writer.
type batchOptions struct {
	schema       schema
	id           string     // names the writer to the processes that listen
	pickShard    func() int // where the next batch is counted
	clock        *steady.Clock
	retention    time.Duration
	copies       *remembering
	allowNoFsync bool
}

func newBatch(o batchOptions) *batch {
	now := o.clock.Now()
	return &batch{
		batchOptions: o, now: now, forget: now + o.retention.Milliseconds(),
		mailboxes: make(map[spec.ServerName]*mailbox), byID: make(map[int64]*mailbox),
		shard: o.pickShard(), known: make(map[seal.Key]int64), notes: make(map[string][]byte), woken: make(map[spec.ServerName]struct{}),
	}
}

// A work is a part of a batch. It may run again, if a transaction failed.
type work interface {
	// touches returns the destinations whose mailboxes must be locked.
	touches() []spec.ServerName

	// ask queues everything that can be done, or must be known, before decide.
	ask(*batch, *pgx.Batch)

	// decide notes everything that is to be written.
	decide(*batch) error
}

// errMoved says that a mailbox was dropped while the batch waited for it.
var errMoved = errors.New("the mailbox was removed meanwhile")

// errOther says that the server or its database isn't the one that was written
// to before, or was set back to an earlier state.
var errOther = errors.New("another server or database, or the same from an earlier time")

// errWarned says that the server has committed, but not where it should: canceling
// a commit that waits for a standby gets a warning for an answer.
var errWarned = errors.New("the server warns that it may have committed without its standbys")

// run does the works in a transaction on this connection. Committed reports
// that they were committed for certain; without it and without an answer of the
// server nobody knows.
func (b *batch) run(ctx context.Context, conn *pgx.Conn, works []work) (committed bool, err error) {
	if err := b.begin(ctx, conn, works); err != nil {
		return false, err
	}
	for _, w := range works {
		if err := w.decide(b); err != nil {
			return false, err
		}
	}
	if b.tight && !b.exact {
		return false, errTight
	}
	if committed, err = b.finish(ctx, conn); !committed {
		b.copies.unlist()
	}
	return committed, err
}

func (b *batch) begin(ctx context.Context, conn *pgx.Conn, works []work) error {
	locked := make(map[spec.ServerName]struct{})
	puts := &putQuestions{}
	for _, w := range works {
		for _, name := range w.touches() {
			locked[name] = struct{}{}
			b.touched[halfOf(name)] = true
		}
		switch w := w.(type) {
		case *put:
			puts.add(w)
		case *putAll:
			w.eachOf(puts.add)
		}
	}
	q := &pgx.Batch{}
	q.Queue(beginSQL)
	var found settings
	q.Queue(b.schema.sql(settingsSQL)).QueryRow(func(row pgx.Row) (err error) {
		if found, err = readSettings(row); err != nil {
			return err
		}
		return found.check(b.allowNoFsync)
	})
	b.lock(q, slices.Sorted(maps.Keys(locked)), puts)
	for _, w := range works {
		w.ask(b, q)
	}
	b.askForPuts(q, puts)
	if err := conn.SendBatch(ctx, q).Close(); err != nil {
		return err
	}
	if found.known() != b.server || b.setBack {
		return errOther
	}
	for name := range puts.destinations {
		if b.mailboxes[name] == nil {
			return errMoved
		}
	}
	return nil
}

func (b *batch) lock(q *pgx.Batch, names []spec.ServerName, puts *putQuestions) {
	if len(puts.destinations) > 0 {
		q.Queue(b.schema.sql(newMailboxesSQL), byteSlices(slices.Sorted(maps.Keys(puts.destinations))))
	}
	if len(names) > 0 {
		q.Queue(b.schema.sql(lockMailboxesSQL), byteSlices(names)).Query(b.readMailboxes)
	}
}

func (b *batch) readMailboxes(rows pgx.Rows) error {
	for rows.Next() {
		m := &mailbox{shares: make(map[spec.ServerName]*share)}
		var name []byte
		if err := rows.Scan(&m.id, &name, &m.counts.entries, &m.counts.bytes); err != nil {
			return fmt.Errorf("mailbox: %w", err)
		}
		m.half = halfOf(spec.ServerName(name))
		b.mailboxes[spec.ServerName(name)] = m
		b.byID[m.id] = m
	}
	return rows.Err()
}

// finish writes and commits. Statements behind the commit are only to wake
// others, and may fail.
func (b *batch) finish(ctx context.Context, conn *pgx.Conn) (committed bool, err error) {
	q := &pgx.Batch{}
	b.entries.queue(b.schema, q)
	b.queueCounts(q)
	b.queueNotes(q)
	b.queueForgetting(q)
	q.Queue(commitSQL).Exec(func(tag pgconn.CommandTag) error {
		if tag.String() != "COMMIT" {
			return fmt.Errorf("the server answers %s to a commit", tag)
		}
		if hasWarned(conn) {
			return errWarned
		}
		committed = true
		return nil
	})
	b.queueAnnouncements(q)
	forgetWarnings(conn)
	return committed, conn.SendBatch(ctx, q).Close()
}

// byteSlices makes an array of bytea of names.
func byteSlices[S ~string](names []S) [][]byte {
	list := make([][]byte, len(names))
	for i, name := range names {
		list[i] = []byte(name)
	}
	return list
}
