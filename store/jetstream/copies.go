package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/copies"
)

// forgetStep is how many messages one batch removes that recognise copies.
const forgetStep = 128

// A mark is a message that recognises copies.
type mark struct {
	subject string // of which mail this was
	seq     uint64
}

// remembered lists the messages that recognise copies and that this process has stored.
// It is safe for concurrent use.
type remembered struct {
	limits copies.Limits
	more   chan struct{} // has something in it when there may be too many

	mu     sync.Mutex
	listed *copies.Ledger[mark]
}

func newRemembered(o Options) *remembered {
	limits := copies.LimitsOf(o.MaxCopies, o.MaxCopiesOfOrigin)
	return &remembered{limits: limits, more: make(chan struct{}, 1), listed: copies.New[mark](limits)}
}

// add lists those of a batch whose first message has that sequence.
func (r *remembered) add(messages []outgoing, first uint64, until, now int64) {
	if !r.limits.AreAny() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listed.Expire(now, func(mark) {})
	for i := range messages {
		if messages[i].copyOf != "" {
			r.listed.Add(messages[i].copyOf, mark{messages[i].subject, first + uint64(i)}, until)
		}
	}
	select {
	case r.more <- struct{}{}:
	default:
	}
}

// take returns some of those that are too many, which aren't listed any more.
func (r *remembered) take() (marks []mark) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(marks) < forgetStep {
		m, _, isOver := r.listed.Over(0)
		if !isOver {
			break
		}
		marks = append(marks, m)
	}
	return marks
}

func (r *remembered) count(now int64) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listed.Expire(now, func(mark) {})
	return r.listed.Count()
}

// bury replaces the mail of an entry by a message that recognises copies of it.
func (b *batch) bury(m *meta) {
	b.send(outgoing{subject: b.subjects.mail(m.key), ttl: lastsFor(b.options.Retention), copyOf: spec.ServerName(m.origin[:])})
}

// forgetLoop removes the messages that are too many, beside everything else that is
// written.
func (s *Store) forgetLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.writer.copies.more:
		}
		for marks := s.writer.copies.take(); len(marks) > 0 && ctx.Err() == nil; marks = s.writer.copies.take() {
			if err := s.engine.forget(ctx, marks); err != nil && ctx.Err() == nil {
				s.options.Logger.Warn("jetstream: copies that are too many are remembered until their time is over", "error", err)
			}
		}
	}
}

// forget has messages that recognise copies end in a second. A subject that has another
// message is left alone: its mail was put anew, or the stream was set back.
func (e *engine) forget(ctx context.Context, marks []mark) error {
	messages := make([]outgoing, len(marks))
	for i, m := range marks {
		messages[i] = outgoing{subject: m.subject, ttl: lastsFor(0), checked: true, seq: m.seq}
	}
	asking := false
	err := e.retry(ctx, func(context.Context) error {
		_, err := e.publish(messages, asking)
		asking = saysNothing(err)
		return err
	})
	switch v := verdictOn(err); {
	case err == nil || v == conflict && len(marks) == 1:
		return nil
	case v != conflict && v != tooMany || len(marks) == 1:
		return err
	}
	half := len(marks) / 2
	return errors.Join(e.forget(ctx, marks[:half]), e.forget(ctx, marks[half:]))
}

var _ store.Measured = (*Store)(nil)

// Sizes implements store.Measured. The file is the stream, of which each replica has as
// much, and the copies are those that this process has listed.
func (s *Store) Sizes(ctx context.Context) (sizes store.Sizes, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		stream, err := s.engine.js.Stream(ctx, s.engine.stream)
		if err != nil {
			return fmt.Errorf("jetstream: sizes: %w", err)
		}
		sizes = store.Sizes{Copies: s.writer.copies.count(s.cache.clock.Now()), File: int64(stream.CachedInfo().State.Bytes)}
		return nil
	})
	return sizes, err
}
