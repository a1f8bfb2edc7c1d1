// Package store is the contract between a relay and what keeps its mail: a
// mailbox for each destination, in order of arrival.
//
// # What a mailbox is
//
// Mail belongs to a destination, a Matrix server name compared byte for byte.
// Each Put that is not a copy becomes an Entry with an ID of its own. Next
// hands out the oldest entries, Ack takes entries away up to an ID, and what
// outlives its Expires is taken away by the store. Nothing else removes mail.
//
// # Bytes, not transactions
//
// A store keeps and returns Body and Proof unchanged and never looks inside
// them, so it can sit on any engine, and what a receiver gets is what was
// signed.
//
// # Crashes
//
// Put returns nil only once the mail would survive a power cut (store/memory
// excepted: it says so). What Ack took away may come back after a crash, and
// so may what expired; mail for which Put returned nil does not disappear.
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
	// Nothing was stored; it may fit later or for another destination.
	ErrFull = errors.New("store: full")

	// ErrEmpty says that there is no entry to return.
	ErrEmpty = errors.New("store: no mail")

	// ErrClosed is what every call gives once Close was called.
	ErrClosed = errors.New("store: closed")

	// ErrReopen says that the store no longer trusts its disk, usually after
	// a failed fsync, and refuses to write until it was closed and opened
	// again. Reading goes on.
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
	// stores nothing and answers (false, nil), whatever its Body, Proof and
	// Expires, for as long as the entry is kept and at least for the store's
	// retention (24 hours by default) after it was acknowledged or expired. A
	// copy is recognised before a limit is checked.
	//
	// Mail that would exceed a limit is refused whole with ErrFull, and
	// concurrent Puts never exceed it together. Mail that has expired doesn't
	// count as soon as the store can tell.
	//
	// The store may read Body and Proof until Put returns, and after an early
	// return too: don't write to them again.
	Put(ctx context.Context, mail Mail, limits Limits) (stored bool, err error)

	// Next returns the oldest entries of destination whose ID is greater than
	// after (0: from the start), in the order of their IDs: at most maxEntries
	// (at least 1), and only as many as have maxBytes of Size together, but
	// always the first. It returns ErrEmpty if there is none. Entries that have
	// expired are not returned. Body and Proof must not be written to.
	//
	// An entry never becomes visible after one of the same destination with a
	// larger ID did, whoever else writes at the same time. The cost depends on
	// what is returned, not on the depth of the mailbox nor on how many there
	// are.
	//
	// An entry that can't be read back as it was put is logged, counted in
	// Usage.SetAside, and passed over from then on; it never blocks what comes
	// behind it, and counts in no limit.
	Next(ctx context.Context, destination spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]Entry, error)

	// Ack removes the entries of destination up to and including id, provided
	// that id is the ID of an entry of that destination, and returns how many
	// it removed. Any other id (another destination's, a made-up one, one that
	// was acknowledged before) removes nothing and is no error. A crash may
	// undo an Ack.
	Ack(ctx context.Context, destination spec.ServerName, id int64) (removed int, err error)

	// Wait returns nil once destination has an entry with an ID greater than
	// after, which may be at once; it may also return nil too early, so call
	// Next after it and wait again on ErrEmpty. A Put in this process wakes it
	// at once, one in another process that shares the store soon. Waiting
	// doesn't poll the store. Close ends it with ErrClosed.
	Wait(ctx context.Context, destination spec.ServerName, after int64) error

	// Destinations returns up to limit (at least 1) destinations that have
	// mail, in ascending order of their bytes, from the first that is greater
	// than after (empty: from the start). A page that is empty is the end.
	// Destinations whose mail has all expired may still be listed for a while.
	Destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error)

	// Usage returns what the mailbox of destination holds; empty means the
	// whole store. It doesn't scan entries. Mail that has expired may still be
	// counted for a while.
	Usage(ctx context.Context, destination spec.ServerName) (Usage, error)

	// Close waits for what the store has accepted and ends all waits with
	// ErrClosed, as it does every later call. It may be called more than once
	// and from several goroutines; each call returns when the store is closed,
	// with the error of closing it.
	Close() error
}

// Mail is one transaction on its way to a destination.
type Mail struct {
	// Destination is the server that the mail is for, Origin the one that
	// signed it, and TransactionID what that server calls it. A retry of a
	// transaction has the same ID but not always the same content.
	Destination   spec.ServerName
	Origin        spec.ServerName
	TransactionID gomatrixserverlib.TransactionID

	// Digest identifies the content: see wire.Digest. Mail with the same
	// Destination, Origin, TransactionID and Digest is the same mail.
	Digest Digest

	// Body is the transaction as it was signed, Proof what is kept beside it
	// to prove that (it may be empty). Both are returned unchanged.
	Body  []byte
	Proof []byte

	// Expires is when the mail is no longer wanted, to the millisecond; the
	// zero time means never.
	Expires time.Time
}

// Size is what the mail counts for in Limits, Usage and Next: the bytes of
// Body and Proof.
func (m *Mail) Size() int64 { return int64(len(m.Body)) + int64(len(m.Proof)) }

// Expired reports whether the mail has outlived its Expires at now.
func (m *Mail) Expired(now time.Time) bool {
	return !m.Expires.IsZero() && !m.Expires.After(now)
}

// FirstID is where a new store begins to count entries at that time. Were the
// file of a relay lost and made anew, an acknowledgement of what was in the
// first would acknowledge nothing in the second.
func FirstID(now time.Time) int64 { return now.UnixMilli() * 1000 }

// A Digest is a SHA-256 sum.
type Digest [32]byte

// An Entry is mail in a mailbox.
type Entry struct {
	// ID is positive, at most MaxID, greater than that of every earlier entry
	// of the same destination, and never given again, also not after a crash or
	// a write that was rolled back. IDs may have gaps; see FirstID.
	ID int64
	Mail
}

// Limits bound what a Put may add to. Zero means no limit. Entries and bytes
// (of Mail.Size) are counted including the mail that is put.
type Limits struct {
	// Entries and Bytes bound the mailbox of the mail's destination.
	Entries int64
	Bytes   int64

	// OriginEntries and OriginBytes bound what the mail's origin has in that
	// mailbox, so that no sender can fill it alone.
	OriginEntries int64
	OriginBytes   int64

	// StoreEntries and StoreBytes bound the whole store.
	StoreEntries int64
	StoreBytes   int64
}

// Usage is what a mailbox, or the whole store, holds.
type Usage struct {
	// Entries and Bytes (of Mail.Size) are waiting to be fetched.
	Entries int64
	Bytes   int64

	// SetAside counts entries that could not be read back and are passed over;
	// they are not in Entries and Bytes.
	SetAside int64
}
