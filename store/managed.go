package store

import (
	"cmp"
	"context"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// Managed is an ability that stores may have beside Store, for their operator: to see
// the mail in mailboxes and its origins, and to remove mail. Package admin is
// built on it. Like Store's, its methods are safe for concurrent use.
type Managed interface {
	// List returns up to limit entries (a limit below 1 counts as 1) of destination
	// whose ID is greater than after, in the order of their IDs, without their bytes.
	// Entries whose Lifetime is over are not listed, nor those that are set aside. A page
	// that is empty is the end. An entry that can't be read may be listed all the same,
	// and listing it doesn't set it aside.
	List(ctx context.Context, destination spec.ServerName, after int64, limit int) ([]Listed, error)

	// Senders returns up to limit origins (a limit below 1 counts as 1) of the mail in
	// the mailbox of destination; "" means all mailboxes of servers, PrivateHalf all
	// private ones. Those whose mail has the most bytes come first, and of equal ones
	// the smaller name. It reads no mail, but where it is asked about a half, the cost
	// may grow with the mailboxes and their origins: don't ask often. Mail that has
	// expired may still be counted for a while.
	Senders(ctx context.Context, destination spec.ServerName, limit int) ([]Sender, error)

	// Recipients is Destinations, of the mailboxes alone that have mail from origin.
	Recipients(ctx context.Context, origin, after spec.ServerName, limit int) ([]spec.ServerName, error)

	// Remove removes the entries of destination with these IDs, wherever they are in the
	// mailbox, and returns how many it removed. It passes over IDs that aren't those of
	// entries of destination. Mail that it removed is remembered as if it was
	// acknowledged in the order of the IDs, so a copy is not stored; an Ack with its ID may
	// then remove the entries before it, or nothing. Many entries may be removed in steps:
	// at any moment each of them is there and counted, or is neither, also after a
	// crash. Once Remove has returned nil, a power cut doesn't bring them back. Entries
	// that have expired or are set aside may be removed or not, and be in the count or not.
	// An entry that can't be read is removed or set aside.
	Remove(ctx context.Context, destination spec.ServerName, ids []int64) (removed int, err error)
}

// Listed is an entry without its bytes.
type Listed struct {
	ID            int64
	Origin        spec.ServerName
	TransactionID gomatrixserverlib.TransactionID
	Digest        Digest

	// Size is Mail.Size, and Proven says that there is a proof beside the body.
	Size   int64
	Proven bool

	// Lifetime is the rest of it, at least a millisecond; 0 means for ever.
	Lifetime time.Duration
}

// A Sender is an origin and its mail in one mailbox or in several.
type Sender struct {
	Origin    spec.ServerName
	Mailboxes int64 // that have mail from it
	Entries   int64
	Bytes     int64 // of Mail.Size
}

// CompareSenders orders senders as Managed.Senders does.
func CompareSenders(a, b Sender) int {
	return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Origin, b.Origin))
}
