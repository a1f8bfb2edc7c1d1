package policy

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/turns"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// countEvery is how often, at most, the mail of unclaimed mailboxes is counted anew.
const countEvery = time.Minute

// unclaimed counts the mail of all unclaimed mailboxes together. New mail is added;
// mail that has expired, and mailboxes that were claimed, are noticed when they are
// counted anew, which is done when there seems to be no room.
type unclaimed struct {
	store  store.Store
	claims *claims

	counting turns.Turn // they are counted by one request at a time

	mu       sync.Mutex
	held     holding // as counted, and mail stored since
	during   holding // mail stored since the count under way began
	onTheWay holding // mail that may be stored
	counted  time.Time
}

// A holding is the mail that some mailboxes hold.
type holding struct {
	Size
	boxes int
}

func (h *holding) add(entries, bytes int64, boxes int) {
	h.Entries += entries
	h.Bytes += bytes
	h.boxes += boxes
}

// reserve takes room for a request's mail until it is over, and reports whether its
// mailbox was empty.
func (u *unclaimed) reserve(ctx context.Context, r *Request, most Size, boxes int) (isNew bool, err error) {
	usage, err := u.store.Usage(ctx, r.Destination)
	if err != nil {
		return false, fmt.Errorf("policy: usage of a mailbox: %w", err)
	}
	var mail holding
	mail.add(1, r.Bytes+wire.MaxProofBytes, 0)
	if isNew = usage.Entries == 0; isNew {
		mail.boxes = 1
	}
	full := holding{most, boxes}
	if u.begin(0, mail, full) { // unless they were never counted
		u.endWith(r, mail)
		return isNew, nil
	}
	if err := u.count(ctx); err != nil {
		return false, err
	}
	if !u.begin(1, mail, full) {
		return false, noRoom(r.Destination)
	}
	u.endWith(r, mail)
	return isNew, nil
}

// begin takes room, if there is some.
func (u *unclaimed) begin(round int, mail, most holding) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if round == 0 && u.counted.IsZero() {
		return false
	}
	sum := u.held
	sum.add(u.onTheWay.Entries+mail.Entries, u.onTheWay.Bytes+mail.Bytes, u.onTheWay.boxes+mail.boxes)
	if sum.Entries > most.Entries || sum.Bytes > most.Bytes || sum.boxes > most.boxes {
		return false
	}
	u.onTheWay.add(mail.Entries, mail.Bytes, mail.boxes)
	return true
}

// endWith gives the room back when the request is over, but for mail that was stored.
func (u *unclaimed) endWith(r *Request, mail holding) {
	r.WhenDone(func(used Used) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.onTheWay.add(-mail.Entries, -mail.Bytes, -mail.boxes)
		if used.Stored > 0 {
			u.held.add(1, used.Stored, mail.boxes)
			u.during.add(1, used.Stored, mail.boxes)
		}
	})
}

// countAgain has the next count be soon: a mailbox was claimed.
func (u *unclaimed) countAgain() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.counted.IsZero() {
		u.counted = u.counted.Add(-countEvery)
	}
}

// count counts the mail of unclaimed mailboxes, unless that was done a moment ago.
func (u *unclaimed) count(ctx context.Context) error {
	if err := u.counting.Take(ctx); err != nil {
		return err
	}
	defer u.counting.Give()
	u.mu.Lock()
	fresh := !u.counted.IsZero() && time.Since(u.counted) < countEvery
	u.during = holding{}
	u.mu.Unlock()
	if fresh {
		return nil
	}
	var sum holding
	err := u.each(ctx, func(usage store.Usage) { sum.add(usage.Entries, usage.Bytes, 1) })
	if err != nil {
		return fmt.Errorf("policy: counting unclaimed mailboxes: %w", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	sum.add(u.during.Entries, u.during.Bytes, u.during.boxes) // some of it may count twice, until the next time
	u.held, u.counted = sum, time.Now()
	return nil
}

// each calls do with the usage of each unclaimed mailbox.
func (u *unclaimed) each(ctx context.Context, do func(store.Usage)) error {
	const page = 500
	for after := spec.ServerName(""); ; {
		names, err := u.store.Destinations(ctx, after, page)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, name := range names {
			after = name
			claimed, err := u.claims.has(ctx, name)
			if err != nil {
				return err
			}
			if claimed {
				continue
			}
			usage, err := u.store.Usage(ctx, name)
			if err != nil {
				return err
			}
			do(usage)
		}
	}
}
