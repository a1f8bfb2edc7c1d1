package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

var _ store.Batches = (*Store)(nil)

// PutAll implements store.Batches. All are stored, or none.
func (s *Store) PutAll(ctx context.Context, mails []store.Mail) error {
	all, size := &putAll{}, int64(0)
	for _, mail := range mails {
		if err := mail.Check(); err != nil {
			return fmt.Errorf("postgres: %w", err)
		}
		all.puts = append(all.puts, newPut(mail, store.Limits{}))
		size += mail.Size()
	}
	if err := s.writer.queue.Do(ctx, all, size); err != nil {
		return err
	}
	for _, p := range all.puts {
		if p.refused != nil {
			return p.refused
		}
	}
	return nil
}

// A putAll stores mails in their order.
type putAll struct{ puts []*put }

func (a *putAll) eachOf(do func(*put)) {
	for _, p := range a.puts {
		do(p)
	}
}

func (a *putAll) touches() (names []spec.ServerName) {
	a.eachOf(func(p *put) { names = append(names, p.mail.Destination) })
	return names
}

func (a *putAll) ask(*batch, *pgx.Batch) {} // see putQuestions

func (a *putAll) decide(b *batch) error {
	for _, p := range a.puts {
		if err := p.decide(b); err != nil {
			return err
		}
	}
	return nil
}
