package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A badPage is a page that isn't there or can't be read, though its mailbox must
// have it, or a record of a mailbox that is older than one that was seen.
type badPage struct {
	subject string
	err     error
}

func (b *badPage) Error() string { return fmt.Sprintf("jetstream: %s: %v", b.subject, b.err) }
func (b *badPage) Unwrap() error { return b.err }

// behindPatience is how long a server may have less than this process knows of,
// as it may believe to be the leader, before a commit finds out whether the leader
// has no more.
const behindPatience = time.Second

// mending repeats a call that fails for a bad page, once the page is mended. The page
// may have come from a server that is behind; then the call is repeated without mending.
func (s *Store) mending(ctx context.Context, destination spec.ServerName, try func() error) error {
	start, most := time.Now(), s.options.Timeout
	for attempt := 0; ; attempt++ {
		err := try()
		var bad *badPage
		if !errors.As(err, &bad) || time.Since(start) > most {
			return err
		}
		if errors.Is(bad, errCodec) || time.Since(start) > min(behindPatience, most) {
			if err := s.mend(ctx, destination, bad); err != nil {
				return fmt.Errorf("%w, nor mended: %w", bad, err)
			}
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// change has the writer do something to a mailbox, whose bad pages it mends.
func (s *Store) change(ctx context.Context, destination spec.ServerName, run func(*batch) error, size int64) error {
	return s.mending(ctx, destination, func() error { return s.writer.do(ctx, run, size) })
}

func (s *Store) mend(ctx context.Context, destination spec.ServerName, bad *badPage) error {
	job := mendJob{destination: destination}
	if err := s.writer.do(ctx, job.run, 0); err != nil {
		return err
	}
	if job.mended > 0 {
		s.options.Logger.Error("jetstream: pages of a mailbox can't be read, and their entries are set aside",
			"destination", destination, "pages", job.mended, "error", bad)
	}
	if job.setBack {
		s.options.Logger.Error("jetstream: the stream was set back or purged: it has less of a mailbox than it had",
			"destination", destination)
	}
	return nil
}

// A mendJob sets the entries of bad pages of a mailbox aside, all of each, since
// nothing is known of them, and counts the entries that are left. Their origins aren't
// known either, so they stay counted in the shares of those.
//
// Only a page that the leader of the stream lacks can be mended: the commit proves that.
type mendJob struct {
	destination spec.ServerName
	mended      int
	setBack     bool // the leader has less of the mailbox than this process knew
}

// maxMended bounds the pages that one batch replaces.
const maxMended = 64

func (j *mendJob) run(b *batch) error {
	j.mended, j.setBack = 0, false // it may run again
	if b.care < careful {
		return errUnsure
	}
	x, err := b.box(j.destination)
	if err != nil {
		return err
	}
	changed := x.changed
	if err := b.sure(j.destination, x); err != nil {
		return err
	}
	j.setBack = x.changed && !changed
	left := counts{}
	for place := x.value.mark + 1; place < x.value.next(); place++ {
		m, _, e := b.meta(j.destination, x, place)
		if bad := (*badPage)(nil); errors.As(e, &bad) && j.mended < maxMended {
			j.mended++
			b.setPageAside(bad.subject)
			m, _, e = b.meta(j.destination, x, place)
		}
		switch {
		case errors.Is(e, errMissing):
			err = e
		case e != nil: // another batch mends it
		case m.state == live:
			left.entries, left.bytes = left.entries+1, left.bytes+m.size
		case m.state == setAside:
			left.aside++
		}
	}
	if j.mended > 0 {
		x.value.counts, x.changed = left, true
	}
	return err
}

func (b *batch) setPageAside(subject string) {
	all := make(page, pageSize)
	for i := range all {
		all[i].state = setAside
	}
	b.records[subject] = &record[page]{seq: b.read[subject].seq, value: &all, changed: true}
}
