// Package store is the contract between a relay and the store of its mail: a
// mailbox for each destination, in order of arrival.
//
// # Mailboxes
//
// Mail belongs to a destination, a Matrix server name compared byte for byte.
// Each Put that is not a copy becomes an Entry with an ID of its own. Next
// hands out the oldest entries, Ack takes entries away up to an ID, and the
// store takes mail away whose Lifetime is over. Nothing else removes mail, except
// its operator: see Managed.
//
// # Two halves
//
// A mailbox whose name begins with "~" belongs to no server: see Private. Such
// mailboxes are a half of the store of their own: limits of the whole store,
// Destinations and Usage("") never mix the two. So a relay and the embedder's
// own queues can live in one store and don't see each other.
//
// # Time
//
// Lifetimes and the retention are counted by a clock of the store that runs only
// while the store is open, in at least one process, and that nobody can set. It
// doesn't follow the clock of the machine: however that jumps, no mail is lost
// or hidden by it. Time during which no process has the store open doesn't
// count. When a store is opened again, the clock goes on where it stood at the last
// commit at least; after a crash it may be some minutes behind where it was, so
// expired mail that wasn't removed yet may show once more.
//
// The clock of the machine is used for one thing, where the IDs of entries go
// on: see FirstID.
//
// # Bytes, not transactions
//
// A store keeps and returns Body and Proof unchanged and never looks inside
// them, so it can sit on any engine, and a receiver gets the bytes that were
// signed.
//
// # Crashes
//
// Put returns nil only once the mail would survive a power cut (store/memory
// excepted: it says so). Mail that Ack took away may come back after a crash, and
// so may expired mail; mail for which Put returned nil does not disappear.
//
// Next shows mail only once it is durable, as far as the engine lets a store know
// that; mail that was shown before and is lost then may come again as another
// entry.
//
// # Names
//
// The name of a mailbox has 1 to MaxName bytes, that of an origin up to MaxName.
// A transaction ID has up to MaxTransactionID bytes and may be empty. All of them
// may have any bytes in them, NUL included, and are compared and sorted as bytes.
// See Mail.Check.
//
// # Other abilities
//
// A store may also be a Notes, a Batches, a Timed, a Failing, a Measured, a Committing
// and a Managed; each is an interface of its own here. A wrapper around a store must pass
// them on, or it hides them: a client.Outbox on it then forgets at each start which relays
// have which transaction, for instance.
//
// # Concurrency
//
// Every method is safe for use by any number of goroutines, and by any number
// of processes where the implementation says that several may share a store.
//
// Implementations are checked by package storetest.
package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// MaxID is the largest ID that a store gives: the largest integer that every
// JSON decoder reads exactly.
const MaxID = 1<<53 - 1

// Errors that callers decide by. Implementations wrap them, so test with
// errors.Is. Any other error means that the outcome is unknown: after such an
// error from Put the mail may or may not be stored, and putting it again is
// safe.
var (
	// ErrFull says that a Limit or the disk has no room for this mail.
	// Nothing was stored; it may fit later or for another destination. When the
	// disk is full in the middle of a commit, a store gives it only if it is certain
	// that nothing of the commit will be there later.
	ErrFull = errors.New("store: full")

	// ErrEmpty says that there is no entry to return.
	ErrEmpty = errors.New("store: no mail")

	// ErrInvalid says that a name, a transaction ID or the key of a note is empty
	// or too long: see Mail.Check and CheckNotes.
	ErrInvalid = errors.New("store: invalid name")

	// ErrClosed is the error of every call once Close was called, Close itself
	// aside. If the call's context has ended, too, either error may come.
	ErrClosed = errors.New("store: closed")

	// ErrReopen says that the store no longer trusts its disk, usually after
	// a failed fsync, and refuses to write until it was closed and opened
	// again. The calls whose fsync failed get it too, and their mail may be
	// stored or not. Reading goes on. See Failing.
	ErrReopen = errors.New("store: must be reopened")
)

// A Store keeps mail. Every method ends early with the context's error when
// its context ends; a Put or an Ack that was already on its way to the disk
// may then still take effect.
type Store interface {
	// Put keeps mail for mail.Destination and reports whether it was stored.
	// It returns nil only once the mail would survive a power cut.
	//
	// Put is idempotent by (Destination, Origin, TransactionID, Digest): a copy
	// stores nothing and answers (false, nil), regardless of its Body, Proof and
	// Lifetime, for as long as the entry is kept, and for the store's retention
	// (24 hours by default) after it was acknowledged or expired. A
	// copy is recognised before a limit is checked. Mail that was set aside (see
	// Next) may count as kept.
	//
	// A store bounds how many it remembers that aren't kept any more, of one origin and
	// of all. Beyond that it forgets some before their time, and refuses no mail for it:
	// the oldest of an origin that has more than its part, and else the oldest of the
	// origin that has most. The halves share these limits: where the mail of many strangers
	// passes through a relay, an outbox in its store may take a transaction as new that was
	// delivered less than the retention ago, and send it again. Those that were remembered
	// before the store was opened may count as those of one more origin, or not at all, and
	// several processes may each have limits of their own.
	//
	// Mail whose Lifetime is over before Put returns is no error: it may be
	// reported as stored or not, and has expired.
	//
	// Mail that would exceed a limit is refused whole with ErrFull, and
	// concurrent Puts never exceed it together. Mail that has expired doesn't
	// count as soon as the store can tell.
	//
	// The store may read Body and Proof until Put returns, and after an early
	// return too: don't write to them again.
	Put(ctx context.Context, mail Mail, limits Limits) (stored bool, err error)

	// Next returns the oldest entries of destination whose ID is greater than
	// after (0: from the start), in the order of their IDs: at most maxEntries,
	// and only as many as have maxBytes of Size together, but always the first. A
	// maxEntries below 1 counts as 1. It returns ErrEmpty if there is none. Entries
	// whose Lifetime is over are not returned; in the others it is the rest of
	// it. Body and Proof must not be written to.
	//
	// An entry never becomes visible after one of the same destination with a
	// larger ID did, also while others write at the same time. The cost depends on
	// the entries that are returned, not on the depth of the mailbox nor on how many
	// mailboxes there are.
	//
	// An entry that can't be read back as it was put is logged, counted in
	// Usage.SetAside, and passed over from then on; it never blocks the entries
	// behind it, and counts in no limit.
	Next(ctx context.Context, destination spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]Entry, error)

	// Ack removes the entries of destination up to and including id, provided
	// that id is the ID of an entry of that destination, and returns how many
	// it removed. Any other id (another destination's, a made-up one, one that
	// was acknowledged before) removes nothing and is no error. A crash may
	// undo an Ack. Entries that have expired or are set aside may be in the count
	// or not, and as id they may count as entries until they are removed, or not.
	Ack(ctx context.Context, destination spec.ServerName, id int64) (removed int, err error)

	// Wait returns nil once destination has an entry with an ID greater than
	// after, which may be at once; it may also return nil too early, so call
	// Next after it and wait again on ErrEmpty. A Put in this process wakes it
	// at once, one in another process that shares the store soon. Waiting
	// doesn't poll the store. Close ends it with ErrClosed.
	Wait(ctx context.Context, destination spec.ServerName, after int64) error

	// Destinations returns up to limit destinations (a limit below 1 counts as 1)
	// that have mail, in ascending order of their bytes, from the first that is greater
	// than after, and only those of the half that after is in: "" is the start
	// of the servers' names, PrivateHalf that of the private ones, and
	// Private(part, "") comes before all of that part. A page that is
	// empty is the end. Destinations whose mail has all expired may still be
	// listed for a while.
	Destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error)

	// Usage returns how much the mailbox of destination holds; "" means all mailboxes
	// of servers, PrivateHalf all private ones. It doesn't scan entries. Mail that has
	// expired may still be counted for a while.
	Usage(ctx context.Context, destination spec.ServerName) (Usage, error)

	// Close waits for everything that the store has accepted and ends all waits with
	// ErrClosed, as it does every later call. It may be called more than once
	// and from several goroutines; each call returns when the store is closed,
	// with the error of closing it.
	Close() error
}

// Mail is one transaction on its way to a destination.
type Mail struct {
	// Destination is the server that the mail is for, or a name that Private
	// made, Origin the server that signed it, and TransactionID that server's ID for
	// it. A retry of a transaction has the same ID but not always the same
	// content.
	Destination   spec.ServerName
	Origin        spec.ServerName
	TransactionID gomatrixserverlib.TransactionID

	// Digest identifies the content: see wire.Digest. Mail with the same
	// Destination, Origin, TransactionID and Digest is the same mail.
	Digest Digest

	// Body is the transaction as it was signed, Proof the bytes beside it that
	// prove that (it may be empty). Both are returned unchanged.
	Body  []byte
	Proof []byte

	// Lifetime is how long the store keeps the mail, to the next whole
	// millisecond, by the store's clock; 0 or less means for ever. In an Entry
	// it is the rest of that time, at least a millisecond, and 0 means for ever.
	Lifetime time.Duration
}

// Size is the mail's part in Limits, Usage and Next: the bytes of
// Body and Proof.
func (m *Mail) Size() int64 { return int64(len(m.Body)) + int64(len(m.Proof)) }

// MaxName and MaxTransactionID bound names and transaction IDs, in bytes. The names
// of Matrix servers have at most 230, its transaction IDs 255.
const (
	MaxName          = 512
	MaxTransactionID = 1024
)

// Check returns an error that wraps ErrInvalid for mail that no store keeps. Stores
// call it; embedders needn't.
func (m *Mail) Check() error {
	switch {
	case m.Destination == "":
		return fmt.Errorf("%w: mail for nobody", ErrInvalid)
	case len(m.Destination) > MaxName, len(m.Origin) > MaxName, len(m.TransactionID) > MaxTransactionID:
		return fmt.Errorf("%w: mail for a name of %d bytes, from one of %d, with a transaction ID of %d",
			ErrInvalid, len(m.Destination), len(m.Origin), len(m.TransactionID))
	}
	return nil
}

// Private names the mailbox in which a part of an embedder's program, such as
// its outbox, keeps mail for a server. No server has such a name. A part has no
// slash in it.
func Private(part string, server spec.ServerName) spec.ServerName {
	return PrivateHalf + spec.ServerName(part) + "/" + server
}

// PrivateHalf names all private mailboxes where Usage is asked, and comes before
// all of them where Destinations is.
const PrivateHalf spec.ServerName = "~"

// IsPrivate reports whether a mailbox with that name is in the private half.
func IsPrivate(name spec.ServerName) bool {
	return strings.HasPrefix(string(name), string(PrivateHalf))
}

// FirstID is the smallest ID that a store gives after it was opened, or made, at
// that time. A store that was set back to an earlier copy, or lost and made
// anew, then never gives an ID again that a receiver may still hold, whose
// acknowledgement would remove mail that the receiver has never seen. It holds
// as long as a store gets fewer than a thousand entries a millisecond.
//
// A time outside of the years 2025 to 2100 comes from a clock that isn't set
// yet. Then FirstID is a random ID that is smaller than all others, so that a
// store goes on where it is and a new one doesn't begin where another did.
func FirstID(now time.Time) int64 {
	if year := now.UTC().Year(); year < 2025 || year > 2100 {
		return 1 + rand.Int64N(idAt(time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)))
	}
	return idAt(now)
}

func idAt(t time.Time) int64 { return t.UnixMilli() * 1000 }

// A Digest is a SHA-256 sum.
type Digest [32]byte

// An Entry is mail in a mailbox.
type Entry struct {
	// ID is positive, at most MaxID, greater than that of every earlier entry
	// of the same destination, and never given again, also not after a crash, a
	// write that was rolled back, or a store that was set back to an earlier copy:
	// at every open IDs go on at the larger of the next one and FirstID(now). IDs
	// may have gaps.
	ID int64
	Mail
}

// Limits are the bounds that a Put keeps to. Zero or less is no limit. Entries and bytes
// (of Mail.Size) are counted including the mail that is put.
type Limits struct {
	// Entries and Bytes bound the mailbox of the mail's destination.
	Entries int64
	Bytes   int64

	// OriginEntries and OriginBytes bound the mail of the mail's origin in that
	// mailbox, so that no sender can fill it alone.
	OriginEntries int64
	OriginBytes   int64

	// StoreEntries and StoreBytes bound all mailboxes of the half that the
	// mail's destination is in.
	StoreEntries int64
	StoreBytes   int64
}

// Usage is how much a mailbox, or a half of the store, holds.
type Usage struct {
	// Entries and Bytes (of Mail.Size) are waiting to be fetched.
	Entries int64
	Bytes   int64

	// SetAside counts entries that could not be read back and are passed over;
	// they are not in Entries and Bytes.
	SetAside int64
}
