// Package postgres keeps mail in a PostgreSQL database, which any number of
// relay processes can share.
//
// # Durability
//
// Put returns nil once the server has answered its commit. Every transaction
// that writes sets synchronous_commit and reads it back; a server with fsync
// off is refused. One goroutine of each process writes: it takes the calls that
// queued up while the last commit was on its way and commits them together, in
// two round trips, so that its callers share them and the server's fsync.
//
// When the connection is lost in the middle of a commit, nobody knows whether
// it happened. The transaction is then tried again, which finds out; if that
// doesn't succeed in a few seconds, Put gives an error that is neither nil nor
// store.ErrFull.
//
// A standby that takes over must have been a synchronous one, or mail that it
// didn't have yet is lost; IDs are not given again in either case. While a
// commit waits for a standby its mailboxes are locked. Canceling that wait, and
// also the death of the server's main process alone, makes the mail visible before
// it is safe. Put doesn't take it for stored, but a receiver that reads it then may
// get it again from the standby, as another entry.
//
// # When the database changes under the store
//
// A server that is away, that can only be read, or whose disk is full is no reason
// to end: calls fail with an error that says so (store.ErrFull for a full disk),
// and the store goes on by itself when that is over.
//
// If the database, the schema or one of the tables is gone, or has another
// version, the first write that needs it notices: that and every later one answers
// store.ErrReopen, and store.Failing names the tables that are missing. Opening refuses
// a schema in which some of the tables are missing. It begins anew in one that has
// none: a database can't remember that there was another in its place. Stop all relays
// before a backup is restored in more than one transaction.
//
// Tables that were emptied or put back from a backup are noticed by their files,
// at the next write or when the store is opened: then the entries are counted anew,
// which goes through the whole table once. (So it is after VACUUM FULL.) Entries
// whose mailbox is gone are removed, since nobody knows any more for which server
// they are; that is logged as an error. A single row that somebody deletes or
// changes by hand isn't noticed.
//
// # Damage
//
// A row that can't be read is set aside. When an index is damaged, or a page of the
// table, mail is looked for in the whole table, so that all mail that is there is
// handed out and can be acknowledged, slowly. Calls that need the damaged page fail;
// the error has the words of the server, and that REINDEX SCHEMA helps if it is an
// index.
// After it everything is as before. The server must notice the damage: without
// data checksums (initdb --data-checksums) it doesn't notice all.
//
// # Logs of the server
//
// A server that is told to log statements logs the mail with them, unless
// log_parameter_max_length is 0. With default_query_exec_mode=simple_protocol
// it may do so with any statement that fails.
//
// # Several processes
//
// All that changes a mailbox happens under a lock of its row, so that entries
// become visible in the order of their IDs, and limits are exact, also while others
// write. Limits of the whole store make processes wait for each other only
// when it is nearly full. All processes should have the same Retention.
//
// # Time
//
// The time on the store's clock (see package store) is kept beside the counts.
// Each process has it run by the time that passes there, writes where it stands
// with every batch, and at least once per SweepInterval brings it to the time that others
// have written. No machine's time counts, also not the server's: of several
// relays, one whose clock is wrong removes nothing of the others' mail.
//
// Copies are remembered in the database, whichever process has removed the mail. That
// there aren't too many of one origin is the part of each process, so several may
// together remember as many times MaxCopiesOfOrigin.
//
// # Other transactions
//
// Counts are rows that every Put and Ack changes. PostgreSQL can't clean up
// behind them while a transaction of the same database is open that began
// before, such as a dump: the store becomes slower by and by until it ends. A
// database of its own keeps out those of other programs.
//
// # Waiting
//
// One connection listens for mail that other processes put (LISTEN). When it is
// lost, it is made anew, and all receivers that wait look once whether they have
// missed something.
//
// # Connection poolers
//
// The store needs no session: it works through a pooler that gives it another
// connection for each transaction, such as PgBouncer in transaction mode.
// Listening does need one; give Options.ListenString a way around the pooler.
// Without it the store notices that notifications don't arrive, says so in the
// log, and wakes all receivers every few seconds.
package postgres

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/aside"
	"github.com/matrixrelay/relay/store/internal/steady"
	"github.com/matrixrelay/relay/store/internal/trust"
	"github.com/matrixrelay/relay/store/internal/upkeep"
	"github.com/matrixrelay/relay/store/internal/wake"
)

// Options of a Store. The zero value connects as the environment says (PGHOST
// and so on) and gives the defaults.
type Options struct {
	// ConnString says where the server is, as a URL or as key=value pairs, with
	// pgx's parameters for the pool. With several hosts and target_session_attrs
	// =read-write the store finds the one that has taken over. Unless there is a
	// default_query_exec_mode, statements are prepared when no pooler is in
	// between.
	ConnString string

	// Pool is used instead of ConnString if it isn't nil. Close leaves it open.
	// Behind a pooler its DefaultQueryExecMode must be one that prepares no
	// statements, such as pgx.QueryExecModeCacheDescribe. A commit that was told
	// not to wait for a standby (see Durability) then goes unnoticed.
	Pool *pgxpool.Pool

	// ListenString says how to connect for listening, past a pooler. Default:
	// as for everything else.
	ListenString string

	// Schema is where the tables are, a name of at most 40 bytes. It is made
	// if it isn't there. Default "relay".
	Schema string

	// Retention is how long a transaction is remembered after it was
	// acknowledged or expired, so that a copy is recognised. Default 24 hours;
	// negative: not at all.
	Retention time.Duration

	// MaxCopies is how many transactions are remembered for that, MaxCopiesOfOrigin how
	// many of one origin. Beyond that they are forgotten earlier: see store.Store. Each
	// process keeps both limits for those that it has removed since the store was opened,
	// or since a commit that failed, with 24 bytes of memory for each; all processes
	// together keep MaxCopies at each sweep. Defaults 1,000,000 and a sixteenth of
	// MaxCopies; negative: no limit.
	MaxCopies, MaxCopiesOfOrigin int64

	// SweepInterval is how often expired mail is removed from the disk. It is
	// never handed out, at any interval. Default one minute; negative: never,
	// unless a Put needs the room.
	SweepInterval time.Duration

	// AllowNoFsync accepts a server with fsync off: for tests, and for servers
	// that keep their log elsewhere. A power cut may then take mail away.
	AllowNoFsync bool

	// Logger is told of entries that can't be read and of trouble with the
	// server. Default: slog.Default().
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	defaults.Set(&o.Schema, "relay")
	defaults.Set(&o.Logger, slog.Default())
	o.Retention = upkeep.Retention(o.Retention)
	return o
}

// A Store is a store.Store in a PostgreSQL database. Make one with Open.
type Store struct {
	options  Options
	pool     *pgxpool.Pool
	clock    *steady.Clock
	reader   *reader
	past     aside.Reader // past damaged entries
	writer   *writer
	listener *listener
	waiting  wake.Hub
	trust    *trust.Trust
	copies   *remembering

	background sync.WaitGroup
	stop       context.CancelFunc
	closeOnce  sync.Once
}

var (
	_ store.Store   = (*Store)(nil)
	_ store.Timed   = (*Store)(nil)
	_ store.Failing = (*Store)(nil)
)

// Open connects to the server and makes the tables, or brings them to the
// version that this program knows; those of a newer one are refused. The
// context is for opening only.
func Open(ctx context.Context, options Options) (*Store, error) {
	s := &Store{options: options.withDefaults()}
	if err := s.open(ctx); err != nil {
		if s.pool != nil && s.pool != options.Pool {
			s.pool.Close()
		}
		return nil, fmt.Errorf("postgres: open: %w", err)
	}
	background, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.background.Go(func() { upkeep.Loop(background, s.options.SweepInterval, s.options.Logger, "postgres", s.sweepAll) })
	s.background.Go(func() { s.listener.loop(background) })
	s.listener.await(ctx)
	return s, nil
}

func (s *Store) open(ctx context.Context) (err error) {
	if len(s.options.Schema) > 40 || strings.ContainsRune(s.options.Schema, 0) {
		return fmt.Errorf("%q can't be the name of the schema", s.options.Schema)
	}
	if s.pool = s.options.Pool; s.pool == nil {
		if s.pool, err = connect(ctx, s.options.ConnString); err != nil {
			return err
		}
	}
	id := newID()
	if s.listener, err = newListener(s, id); err != nil {
		return err
	}
	m, err := migrate(ctx, s.pool, s.schema(), s.options.AllowNoFsync)
	if err != nil {
		return err
	}
	s.clock = steady.Start(m.clock)
	s.reader = newReader(s, int(s.pool.Config().MaxConns)-1) // one is for the writer
	m.report(s.options.Logger)
	s.trust = trust.New("postgres", s.options.Logger)
	s.copies = newRemembering(s.options)
	s.writer = newWriter(s, m.server, batchOptions{
		schema: s.schema(), id: id, pickShard: func() int { return mathrand.IntN(shards) },
		clock: s.clock, retention: s.options.Retention, copies: s.copies, allowNoFsync: s.options.AllowNoFsync,
	})
	s.past = aside.Reader{
		Name: "postgres",
		Read: s.reader.next, Live: s.reader.live, IsDamage: isDamage, Log: s.options.Logger,
		SetAside: func(ctx context.Context, destination spec.ServerName, id int64) error {
			return s.writer.queue.Do(ctx, &settingAside{destination, id}, 0)
		},
	}
	return nil
}

func (s *Store) schema() schema { return schema(s.options.Schema) }

// newID names a Store to others that share the database.
func newID() string {
	id := make([]byte, nameBytes)
	_, _ = rand.Read(id) // it never fails
	return hex.EncodeToString(id)
}

func (s *Store) usable(ctx context.Context) error {
	if s.writer.queue.IsClosed() {
		return store.ErrClosed
	}
	return ctx.Err()
}

// closedOr turns the error of a read that the closing of the store ended into
// ErrClosed, and likewise one that the end of its context caused.
func (s *Store) closedOr(ctx context.Context, err error) error {
	switch {
	case err == nil, errors.Is(err, store.ErrEmpty):
		return err
	case s.writer.queue.IsClosed():
		return store.ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	}
	if lost := s.trust.Failure(); lost != nil {
		return fmt.Errorf("%w (%w)", err, lost)
	}
	return err
}

// Failed implements store.Failing.
func (s *Store) Failed() <-chan struct{} { return s.trust.Failed() }

// Failure implements store.Failing.
func (s *Store) Failure() error { return s.trust.Failure() }

// Close implements store.Store.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.stop()
		s.writer.queue.Close()
		s.waiting.Close()
		s.background.Wait()
		s.saveClock()
		if s.pool != s.options.Pool {
			s.pool.Close()
		}
	})
	return nil
}
