package sqlite

import (
	"context"
	"fmt"
	"slices"

	"github.com/matrixrelay/relay/store"
)

var _ store.Batches = (*Store)(nil)

// PutAll implements store.Batches. All are stored, or none.
func (s *Store) PutAll(ctx context.Context, mails []store.Mail) error {
	size := int64(0)
	for i := range mails {
		if err := mails[i].Check(); err != nil {
			return fmt.Errorf("sqlite: %w", err)
		}
		size += mails[i].Size()
	}
	job := putAllJob{mails: slices.Clone(mails)}
	if err := s.writer.doRows(ctx, job.run, size, len(mails)); err != nil {
		return err
	}
	for _, i := range job.copies {
		if err := s.checkCopy(ctx, &job.mails[i]); err != nil {
			return err
		}
	}
	return job.refused
}

// A putAllJob stores mails in their order.
type putAllJob struct {
	mails   []store.Mail
	copies  []int // of mails
	refused error
}

// run stops at the first mail that is refused. That is for lack of room on the disk,
// and there is none for the others either.
func (p *putAllJob) run(b *batch) error {
	p.copies, p.refused = nil, nil // it may run again
	for i, mail := range p.mails {
		one := putJob{mail: mail}
		if err := one.run(b); err != nil {
			return err
		}
		if p.refused = one.refused; p.refused != nil {
			return nil
		}
		if !one.stored {
			p.copies = append(p.copies, i)
		}
	}
	return nil
}
