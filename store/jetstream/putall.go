package jetstream

import (
	"cmp"
	"context"

	"github.com/matrixrelay/relay/store"
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

func (s *Store) putRow(ctx context.Context, mails []store.Mail) (err error) {
	row := make([]*rowJob, 0, len(mails))
	var notStarted error
	for _, mail := range mails {
		var next *rowJob
		if next, notStarted = s.startNext(ctx, row, mail); notStarted != nil {
			break
		}
		row = append(row, next)
	}
	for _, r := range row { // all of them, as who puts the row again must not overtake it
		failed := r.job.wait()
		if failed == nil {
			s.reportOrphan(r.put)
			failed = r.put.refused
		}
		err = cmp.Or(err, failed)
	}
	return cmp.Or(err, notStarted)
}

// A rowJob puts a mail if the one before it in the row could be put.
type rowJob struct {
	put    *putJob
	job    *job
	before *rowJob
}

func (s *Store) startNext(ctx context.Context, row []*rowJob, mail store.Mail) (r *rowJob, err error) {
	r = &rowJob{}
	if len(row) > 0 {
		r.before = row[len(row)-1]
	}
	if r.put, err = newPutJob(mail, store.Limits{}); err != nil {
		return nil, err
	}
	r.job, err = s.writer.start(ctx, r.run, mail.Size())
	return r, err
}

func (r *rowJob) run(b *batch) error {
	if r.before != nil {
		if err := cmp.Or(r.before.job.err, r.before.put.refused); err != nil {
			return err
		}
	}
	return r.put.run(b)
}
