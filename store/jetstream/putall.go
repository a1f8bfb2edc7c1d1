package jetstream

import (
	"context"
	"errors"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/group"
)

var _ store.Batches = (*Store)(nil)

// PutAll implements store.Batches. It takes as many commits as the mails need
// messages for. After an error the first of them may be stored.
func (s *Store) PutAll(ctx context.Context, mails []store.Mail) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	err := s.putRow(ctx, mails)
	if s.makeRoom(ctx, err) {
		err = s.putRow(ctx, mails)
	}
	return err
}

func (s *Store) putRow(ctx context.Context, mails []store.Mail) error {
	for len(mails) > 0 {
		step := rowJob{}
		for size := int64(0); len(step.puts) < min(len(mails), group.MaxJobs) && size < group.MaxBytes; {
			next := mails[len(step.puts)]
			put, err := newPutJob(next, store.Limits{})
			if err != nil {
				return err
			}
			step.puts, size = append(step.puts, put), size+next.Size()
		}
		if err := s.writer.do(ctx, step.run, step.size()); err != nil {
			return err
		}
		for _, put := range step.puts[:step.done] {
			s.reportOrphan(put)
		}
		if step.failed != nil {
			return step.failed
		}
		mails = mails[step.done:]
	}
	return nil
}

// A rowJob puts mails one after the other, until one fails or the batch is full.
type rowJob struct {
	puts   []*putJob
	done   int
	failed error // of the one after those
}

func (r *rowJob) size() (size int64) {
	for _, p := range r.puts {
		size += p.mail.Size()
	}
	return size
}

func (r *rowJob) run(b *batch) error {
	r.done, r.failed = 0, nil // it may run again
	before, missing := b.size(), error(nil)
	for i, p := range r.puts {
		if i > 0 && b.size()-before+p.messages(b) > b.maxMessages {
			break
		}
		switch err := p.run(b); {
		case errors.Is(err, errMissing):
			missing = err
		case errors.Is(err, errUnsure):
			return err
		case err != nil: // those before it can be stored all the same
			r.failed = err
			return missing
		case p.refused != nil:
			r.failed = p.refused
			return missing
		}
		r.done++
	}
	return missing
}

// messages is how many a batch has more with the mail, at most.
func (p *putJob) messages(b *batch) int { return 5 + int(p.mail.Size())/b.maxMessage }
