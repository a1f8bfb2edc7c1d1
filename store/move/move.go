// Package move brings all mail of one store into another while a relay serves
// from both: from SQLite to PostgreSQL, say, without a pause.
//
//	s, err := move.Open(ctx, old, new, move.Options{})
//	...
//	<-s.Done() // all mail is in new: use that alone from the next start on
//
// # How mail gets over
//
// A goroutine takes the mail of each destination, oldest first and some entries
// at a time (with one commit, if the new store is store.Batches), puts it into
// the new store and acknowledges it in the old one when the new one has it.
// After a crash between the two it puts the same mail again, which the new store
// takes for the copy that it is. So nothing is lost, and nothing is there twice.
//
// Put keeps mail in the old store while that has mail of the same destination,
// and in the new one when it hasn't. So the mail in the new store is older than
// the mail that is still in the old one, and the order of arrival stays. Next hands out
// mail from the new store and, when that isn't enough, has more of that mailbox
// moved first. Nobody waits for the rest.
//
// When mail for a destination arrives faster than it is moved, its Puts are held
// until that has caught up: each for up to a second, and for longer, up to 20
// seconds, the longer that takes.
//
// When moving fails, such as when the new store can't be reached, it is tried
// again, with back-off. Put goes on with the mail in the old store. An entry that
// the old store can't read is passed over there, as ever, and stays there.
//
// # Copies
//
// Only the old store knows the mail that was acknowledged, or has expired, before the
// move. So until Options.Retention is over after Done, Put first asks the old
// store whether it knows the mail, which costs about as much as a Put costs there. A
// relay that stops using the old store before that may get a copy of such mail once
// more. So may one whose old store fails after Done: mail isn't refused for that.
//
// # IDs
//
// All IDs that are handed out are those of the new store. Mail that was fetched from
// the old store and not acknowledged there comes once more, with another ID, and
// its acknowledgement removes nothing, since the new store was opened later: see
// store.FirstID.
//
// # Lifetimes
//
// Mail goes on in the new store with the rest of its Lifetime in the old
// one.
//
// # Usage and limits
//
// Usage is the sum of both stores, where mail that is on its way may be counted
// twice: up to 64 entries or 4 MiB of a mailbox (or one entry that is larger),
// and that of 16 mailboxes, all of which is in memory meanwhile. Limits
// are exact where everything is in one store. Otherwise a mailbox and the whole
// store may go over theirs by the mail that is moved while a Put is under way, and by
// Puts that go to different stores at once. The limit of one origin is counted in
// each store by itself, so that it can reach twice its limit while its mailbox is
// moved.
//
// # Notes
//
// Before Open returns, the notes of the old store are copied into the new one,
// if both are store.Notes; notes that are there stay. That is done once: when the move
// goes on after a restart, the notes of the new store are those that count. The notes
// of client.Outbox ("outbox/") aren't copied, since they speak of IDs; an Outbox
// then leaves some mail at relays once more. Both stores get a note that begins
// with "relay.move/".
//
// # The way back
//
// A store remembers mail that was moved away from it as it remembers acknowledged
// mail, and would take it for copies if it came back. So Open refuses
// with ErrTooSoon to move into a store that mail was moved out of, or may have
// been, less than Options.Retention ago by that store's clock (store.Timed), which
// stands while it is closed. It also refuses to move a store into
// itself. A store without notes can't tell: don't do either then.
//
// # Dendrite
//
// The mail of Dendrite's own relay, which is no store, is moved by ImportQueue of
// module dendrite.
//
// # Several processes
//
// The old store belongs to the one process that moves it. Other processes on the
// new store should start when the move is done: mail that they put before that comes
// in front of older mail that isn't moved yet.
package move

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/upkeep"
)

// Options of a Store. The zero value gives the defaults.
type Options struct {
	// Retention is that of the two stores, or the longer of theirs: how long
	// they recognise copies of acknowledged mail. Default 24 hours; negative:
	// not at all.
	Retention time.Duration

	// Logger is told how the move goes. Default: slog.Default().
	Logger *slog.Logger
}

// Why Open refuses to move mail that the new store would take for copies.
var (
	// ErrTooSoon says that mail was moved out of it: see the package comment.
	ErrTooSoon = errors.New("mail was moved out of the new store too recently")

	// ErrSame says that it is the old store, by another name.
	ErrSame = errors.New("both are the same store")
)

// A Store is two stores, of which one is moved into the other. Make one with
// Open.
type Store struct {
	from, to store.Store
	options  Options

	lanes   lanes // held to move mail
	looks   lanes // held to look where new mail goes
	holds   holds
	slots   chan struct{} // one for each chunk that is being moved
	detours detours
	marks   marks

	done      chan struct{}
	failed    chan struct{} // closed once either store must be reopened
	forgotten atomic.Bool   // the old store isn't asked for copies any more
	warnOnce  sync.Once

	stop  context.CancelFunc
	mover sync.WaitGroup

	closeOnce sync.Once
	closeErr  error
}

var (
	_ store.Store = (*Store)(nil)
	_ store.Notes = (*Store)(nil)
)

// Open copies the notes, which ctx is for, and starts to move the mail. Nobody
// else may use the old store from then on. If Open fails, both stores are still
// the caller's to close; otherwise Close closes them.
func Open(ctx context.Context, from, to store.Store, options Options) (*Store, error) {
	s := newStore(from, to, options)
	if err := s.begin(ctx); err != nil {
		return nil, fmt.Errorf("move: %w", err)
	}
	s.start()
	return s, nil
}

func newStore(from, to store.Store, options Options) *Store {
	options.Retention = upkeep.Retention(options.Retention)
	defaults.Set(&options.Logger, slog.Default())
	return &Store{
		from: from, to: to, options: options,
		slots: make(chan struct{}, maxChunks),
		done:  make(chan struct{}), failed: make(chan struct{}),
	}
}

func (s *Store) start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.mover.Go(func() { s.run(ctx) })
	s.mover.Go(func() { s.watch(ctx) })
}

// Done is closed when all mail is in the new store and none will come into the
// old one any more. It isn't closed by Close.
func (s *Store) Done() <-chan struct{} { return s.done }

// Close implements store.Store. It stops moving, which goes on when the same
// two stores are opened again, and closes both.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.stop()
		s.mover.Wait()
		s.closeErr = errors.Join(s.from.Close(), s.to.Close())
	})
	return s.closeErr
}
