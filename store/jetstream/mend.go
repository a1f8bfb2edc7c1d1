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

// mending repeats what fails for a bad page, once that is mended. It may have
// come from a server that is behind, and then is repeated without.
func (s *Store) mending(ctx context.Context, destination spec.ServerName, try func() error) error {
	end := time.Now().Add(s.options.Timeout)
	for attempt := 0; ; attempt++ {
		err := try()
		var bad *badPage
		if !errors.As(err, &bad) || time.Now().After(end) {
			return err
		}
		job := mendJob{destination: destination}
		if err := s.writer.do(ctx, job.run, 0); err != nil {
			return fmt.Errorf("%w, nor mended: %w", bad, err)
		}
		if job.mended > 0 {
			s.options.Logger.Error("jetstream: pages of a mailbox can't be read, and their entries are set aside",
				"destination", destination, "pages", job.mended, "error", bad)
		}
		if job.setBack {
			s.options.Logger.Error("jetstream: the stream was set back or purged: it has less of a mailbox than it had",
				"destination", destination)
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// A mendJob sets the entries of bad pages of a mailbox aside, all of each, since
// nothing is known of them, and counts what is left. What their origins had is
// not known either, so those keep it in their shares.
//
// Only what the leader of the stream lacks can be mended: the commit proves that.
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
	if err := b.sure(j.destination, x); err != nil || x.value == nil {
		return err
	}
	j.setBack = x.changed && !changed
	left, bad, err := j.look(b, x.value)
	if err != nil || len(bad) == 0 {
		return err
	}
	for _, first := range bad[:min(len(bad), maxMended)] {
		metas := make([]meta, pageSize)
		for i := range metas {
			metas[i].state = setAside
			left.add(first+int64(i), &metas[i], x.value.mark)
		}
		subject := b.subjects.page(j.destination, first)
		b.pages[subject] = &record[[]meta]{seq: b.read[subject].seq, value: &metas, changed: true}
		j.mended++
	}
	x.value.counts, x.changed = left, true
	return nil
}

// look counts what the good pages and the record of the mailbox list, and
// returns the first IDs of the bad ones.
func (j *mendJob) look(b *batch, x *box) (left counts, bad []int64, err error) {
	for first := x.pageOf(x.mark + 1); first < x.base; first += pageSize {
		page, e := b.page(j.destination, first)
		switch {
		case errors.Is(e, errMissing):
			err = e
		case e != nil || len(*page.value) != pageSize:
			bad = append(bad, first)
		default:
			left.addAll(first, *page.value, x.mark)
		}
	}
	left.addAll(x.base, x.tail, x.mark)
	return left, bad, err
}

func (c *counts) addAll(first int64, metas []meta, mark int64) {
	for i := range metas {
		c.add(first+int64(i), &metas[i], mark)
	}
}

// add counts an entry of a mailbox, unless it is gone.
func (c *counts) add(id int64, m *meta, mark int64) {
	switch {
	case id <= mark:
	case m.state == live:
		c.entries, c.bytes = c.entries+1, c.bytes+m.size
	case m.state == setAside:
		c.aside++
	}
}
