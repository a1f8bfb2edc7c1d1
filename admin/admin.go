// Package admin is the interface for the operator of a relay. It tells how full the relay
// is, which mailboxes hold how much and which servers fill them; it purges mail, blocks
// servers and addresses, makes invites, and reads everything to find damage.
//
// A Desk does all that beside the store of a running relay. Its Handler serves it as
// JSON and as pages for a browser, and a Client speaks with it. Both are an Operator, so a
// program works alike with a running relay and with a store that isn't in use.
//
//	desk, err := admin.New(admin.Config{Store: s, ServerName: "example.org"})
//	...
//	listener, err := admin.ListenUnix("/run/relay/admin.sock")
//	...
//	go http.Serve(listener, desk.Handler())
//
// Nothing is served unless an embedder does that. The Handler lets in everybody that can
// reach it: on a Unix socket these are the programs of users that may open its file, and
// for anything else there is RequireToken.
//
// # Steps
//
// Every call but Backup is bounded in time and memory. Lists come in pages, of up to MaxPage. Purge
// and Verify, which may go through all there is, do a step at a time and say where to go
// on; PurgeAll and VerifyAll do all steps.
//
// # Errors
//
// An error that is a *wire.Error with a status below 500 says that the caller asked for
// something that can't be; others are failures of the store or of the way to it.
package admin

import (
	"context"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/activity"
	"github.com/matrixrelay/relay/policy"
)

// MaxPage bounds the items of a page, and DefaultPage is how many there are if nothing
// is said.
const (
	MaxPage     = 1000
	DefaultPage = 100
)

// An Operator does the operator's work on a relay. It is safe for concurrent use.
type Operator interface {
	// Status says how the relay is. If its store can't be read, or hangs, that is one of the
	// problems, and numbers are missing.
	Status(ctx context.Context) (*Status, error)

	// Mailboxes returns a page of mailboxes that have mail, in the order of their names.
	// A page that is empty is the end.
	Mailboxes(ctx context.Context, q MailboxQuery) ([]Mailbox, error)

	// Mailbox returns one mailbox; one that has nothing is no error.
	Mailbox(ctx context.Context, name spec.ServerName) (*Mailbox, error)

	// Entries returns a page of the entries of a mailbox, oldest first. A page that is
	// empty is the end.
	Entries(ctx context.Context, q EntryQuery) ([]Entry, error)

	// Facts returns all that the relay remembers of a server besides its mail: its mailbox
	// and policy, a claim, its record, its receipts. Their keys and values are those of the
	// store's notes, and mean the same in the store of another relay with the same policy.
	// Forget removes them, once another relay has them and the server's requests are led
	// there: a relay that runs may remember them for some minutes.
	Facts(ctx context.Context, server spec.ServerName) ([]Fact, error)
	Forget(ctx context.Context, server spec.ServerName) error

	// Senders returns up to limit origins that hold most bytes in a mailbox, or in those
	// of all servers if it is empty, largest first. Zero means DefaultPage. The answer
	// may be some seconds old.
	Senders(ctx context.Context, mailbox spec.ServerName, limit int) ([]Sender, error)

	// Purge does a step of removing mail. Mail that it removed is remembered as if it
	// was acknowledged, and never comes back.
	Purge(ctx context.Context, p Purge) (*Purged, error)

	// Verify does a step of reading all mail, of the mailboxes of servers. An entry that
	// can't be read is set aside by that, as it is when it's fetched.
	Verify(ctx context.Context, from Position) (*Verified, error)

	// Blocked returns a page of the blocks that are greater than after, Block blocks a
	// server or addresses, and Unblock ends a block and reports whether there was one.
	Blocked(ctx context.Context, after string, limit int) ([]policy.Block, error)
	Block(ctx context.Context, block policy.Block) (*policy.Block, error)
	Unblock(ctx context.Context, entity string) (found bool, err error)

	// Invite makes an invite for that many servers until the end of a day (UTC): see
	// policy.NewInviteText.
	Invite(ctx context.Context, uses int, until time.Time) (string, error)

	// Backup makes a copy of the store: see store.Backups. The caller reads and closes it.
	// Where the store makes none, the error is a *wire.Error with status 404. BackedUp
	// notes, once the copy is in a safe place, when its making began; Status tells that of
	// the last.
	Backup(ctx context.Context) (*Copy, error)
	BackedUp(ctx context.Context, began time.Time) error
}

// Status says how a relay is.
type Status struct {
	ServerName spec.ServerName `json:"server_name"`
	Version    string          `json:"version,omitempty"`

	// Now and Started are by the machine's clock.
	Now     time.Time `json:"now"`
	Started time.Time `json:"started"`

	// Servers is how much the mailboxes of servers hold, Private how much the
	// embedder's own queues do.
	Servers Held `json:"servers"`
	Private Held `json:"private"`

	// MaxEntries and MaxBytes are how much the mailboxes of servers may hold together; 0
	// is no limit, or not known.
	MaxEntries int64 `json:"max_entries,omitempty"`
	MaxBytes   int64 `json:"max_bytes,omitempty"`

	// Files are the sizes of the store's files, nil if it has none or doesn't say.
	Files *Files `json:"files,omitempty"`

	// Copies counts the transactions that aren't kept any more and are remembered, so that
	// copies of them are recognised; nil if the store doesn't say.
	Copies *int64 `json:"copies,omitempty"`

	// Activity is the recent work of the relay, nil if that isn't known.
	Activity *activity.Report `json:"activity,omitempty"`

	// Problems says in words why the relay can't work as it should; it is empty if all
	// is well.
	Problems []string `json:"problems"`

	// MustRestart says that only a restart helps: the store takes no more mail until it is
	// reopened. A full disk and damaged entries are problems that a restart doesn't mend.
	MustRestart bool `json:"must_restart,omitempty"`

	// Blocks, Invites and Backups say whether the calls about these work here.
	Blocks  bool `json:"blocks"`
	Invites bool `json:"invites"`
	Backups bool `json:"backups"`

	// LastBackup is when the last backup began of those that BackedUp was told of. Zero:
	// there was none.
	LastBackup time.Time `json:"last_backup,omitzero"`
}

// Held is how much mail there is somewhere: see store.Usage.
type Held struct {
	Entries  int64 `json:"entries"`
	Bytes    int64 `json:"bytes"`
	SetAside int64 `json:"set_aside"`
}

// Files are sizes in bytes: see store.Sizes.
type Files struct {
	Database int64 `json:"database"`
	Log      int64 `json:"log"`
}

// A MailboxQuery asks for mailboxes.
type MailboxQuery struct {
	// After is the last name of the page before, Limit how many are wanted; zero means
	// DefaultPage.
	After spec.ServerName
	Limit int

	// Origin is the server that they must have mail from, if it isn't empty.
	Origin spec.ServerName

	// Unfetched asks for those alone that have a NotSince. To find them the names of all
	// mailboxes may be read.
	Unfetched bool

	// Private asks for the embedder's own queues.
	Private bool
}

// A Mailbox is the mail that waits for a server.
type Mailbox struct {
	Name spec.ServerName `json:"name"`
	Held

	// LastFetch is when the server has last asked for its mail, or NotSince a time since
	// which it hasn't. Both are nil where that isn't known, as of the embedder's own queues.
	LastFetch *time.Time `json:"last_fetch,omitempty"`
	NotSince  *time.Time `json:"not_since,omitempty"`
}

// An EntryQuery asks for entries of a mailbox.
type EntryQuery struct {
	// After is the last ID of the page before, Limit how many are wanted; zero means
	// DefaultPage.
	Mailbox spec.ServerName
	After   int64
	Limit   int

	// Bodies asks for the transactions, too. A page then has up to 4 MiB, or one entry.
	Bodies bool
}

// An Entry is mail in a mailbox. Time that the relay wasn't running doesn't count in
// Expires, which is zero if it never does.
type Entry struct {
	ID            int64                           `json:"id"`
	Origin        spec.ServerName                 `json:"origin"`
	TransactionID gomatrixserverlib.TransactionID `json:"transaction_id"`
	Digest        string                          `json:"digest"` // unpadded base64url
	Bytes         int64                           `json:"bytes"`
	Proven        bool                            `json:"proven"` // it has a proof of its origin
	ExpiresMS     int64                           `json:"expires_in_ms,omitempty"`
	Body          []byte                          `json:"body,omitempty"`

	// Proof goes with Body, and RawID with a TransactionID that isn't UTF-8, which JSON
	// can't hold.
	Proof []byte `json:"proof,omitempty"`
	RawID []byte `json:"raw_id,omitempty"`
}

// A Fact is something that a relay remembers of a server.
type Fact struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`

	// Clock is where the store's clock stood, in seconds: times in the value are by that. Zero:
	// the store doesn't tell.
	Clock int64 `json:"clock,omitempty"`
}

// A Sender is an origin and how much it holds.
type Sender struct {
	Origin    spec.ServerName `json:"origin"`
	Mailboxes int64           `json:"mailboxes"`
	Entries   int64           `json:"entries"`
	Bytes     int64           `json:"bytes"`
}

// A Position is how far a step has come: the entries of a mailbox up to an ID. The zero
// Position is the start.
type Position struct {
	Mailbox spec.ServerName `json:"mailbox"`
	After   int64           `json:"after"`
}

// A Purge says which mail is removed: all that is in Mailbox, from Origin, and expires
// within a time, of which at least one must be set. Only a Mailbox that is named may be
// private.
type Purge struct {
	Mailbox   spec.ServerName `json:"mailbox,omitempty"`
	Origin    spec.ServerName `json:"origin,omitempty"`
	ExpiresMS int64           `json:"expires_within_ms,omitempty"` // 0: at any time, or never

	// UpTo is the greatest ID of the entries to remove, if a Mailbox is named. 0: all.
	UpTo int64 `json:"up_to,omitempty"`

	// DryRun counts the mail only.
	DryRun bool `json:"dry_run,omitempty"`

	// From is Purged.Next of the step before.
	From Position `json:"from"`
}

// Purged is the result of a step: how much it has removed, or would have.
type Purged struct {
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"` // also of mail that was fetched at the same moment

	// Next is where to go on; nil says that all is done.
	Next *Position `json:"next,omitempty"`
}

// Verified is the result of a step: how much it has read, and the mailboxes of which
// something can't be read.
type Verified struct {
	Mailboxes int64     `json:"mailboxes"` // that were finished
	Entries   int64     `json:"entries"`
	Bytes     int64     `json:"bytes"`
	Damaged   []Damaged `json:"damaged,omitempty"`

	// Next is where to go on; nil says that all is done.
	Next *Position `json:"next,omitempty"`
}

// Damaged is a mailbox with entries that were set aside, or that can't be read to its
// end.
type Damaged struct {
	Mailbox  spec.ServerName `json:"mailbox"`
	SetAside int64           `json:"set_aside"`
	Error    string          `json:"error,omitempty"`
}
