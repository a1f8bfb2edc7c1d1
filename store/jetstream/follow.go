package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/matrixrelay/relay/store"
)

// follow has this process be told by the servers of every change of a mailbox, by
// any process, so that it knows which there are, and those that wait are woken. It
// returns when the cache has all mailboxes that there were before the message with
// the sequence from, or when it was called if that is 0: a server that is behind may
// have fewer yet. Messages that are lost with a server are delivered anew by another
// one: the last of each mailbox, which is all that counts.
func follow(ctx context.Context, e *engine, c *cache, from uint64, log *slog.Logger) (stop func(), err error) {
	ready, isReady := context.WithCancel(ctx)
	defer isReady()
	handle := func(m jetstream.Msg) {
		about, err := m.Metadata()
		if err != nil {
			log.Warn("jetstream: a message of the stream has no metadata", "error", err)
			return
		}
		if !strings.HasPrefix(m.Headers().Get(batchHeader), e.name) {
			c.changed(m.Subject(), about.Sequence.Stream)
		}
		c.learn(m.Subject(), message{about.Sequence.Stream, m.Data()})
		if from > 0 && about.Sequence.Stream >= from || from == 0 && about.NumPending == 0 {
			isReady()
		}
	}
	failed := func(_ jetstream.ConsumeContext, err error) {
		log.Debug("jetstream: following the stream", "error", err)
		if errors.Is(err, jetstream.ErrConsumerDeleted) { // the stream may be, too, and then nothing wakes them
			c.waiting.NotifyAll()
		}
	}
	var consuming jetstream.ConsumeContext
	err = e.retry(ctx, func(ctx context.Context) error { // the servers may have no leader yet
		consumer, err := e.js.OrderedConsumer(ctx, e.stream, jetstream.OrderedConsumerConfig{
			FilterSubjects: []string{c.subjects.boxes(), c.subjects.clock()},
			DeliverPolicy:  jetstream.DeliverLastPerSubjectPolicy,
		})
		if err == nil { // a server that is gone is noticed after two heartbeats
			consuming, err = consumer.Consume(handle, jetstream.PullExpiry(10*time.Second), jetstream.PullHeartbeat(time.Second),
				jetstream.ConsumeErrHandler(failed))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("follow: %w", err)
	}
	stop = func() {
		consuming.Stop()
		<-consuming.Closed()
	}
	if <-ready.Done(); ctx.Err() != nil {
		stop()
		return nil, fmt.Errorf("follow: %w", ctx.Err())
	}
	return stop, nil
}

// refollowLoop has this process learn all records anew, each time that the stream
// turns out to have lost its end: a server that is alone may lose it when its power
// is cut. Otherwise the records known here would be taken for the newer for ever.
func (s *Store) refollowLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.writer.shrunk:
		}
		s.options.Logger.Error("jetstream: the stream has lost its last messages", "stream", s.options.Stream)
		s.unfollow()
		s.writer.first.Store(max(store.FirstID(s.options.wall()), s.writer.first.Load()))
		s.cache.clear()
		for attempt := 0; ; attempt++ {
			stop, err := follow(ctx, s.engine, s.cache, 0, s.options.Logger)
			if err == nil {
				s.unfollow = stop
				break
			}
			s.options.Logger.Debug("jetstream: following the stream", "error", err)
			if pause(ctx, attempt) != nil {
				return
			}
		}
	}
}
