package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/matrixrelay/relay/store"
)

// commit does the first of the jobs, as many as fit into a batch, and returns
// the others.
func (w *writer) commit(jobs []*job) (others []*job) {
	w.measure()
	level, asking := trusting, false
	trial := w.engine.newTrial(endOf(jobs))
	for attempt := 0; ; attempt++ {
		b, n, err := w.prepare(jobs, level)
		if err == nil {
			jobs, others = jobs[:n], slices.Concat(jobs[n:], others)
			err = w.publish(b, asking)
			if err != nil && verdictOn(err) == again && !saysNothing(err) {
				for _, j := range jobs {
					j.Work.unsettled = true
				}
			}
		}
		if err == nil {
			return others
		}
		v := verdictOn(err)
		asking = saysNothing(err)
		switch {
		case errors.Is(err, errUnsure) && level < careful:
			level = careful
			continue
		case errors.Is(err, errUnsure):
		case v == tooMany && w.maxMessages > 16:
			w.maxMessages /= 2
		case (v == full || v == final) && len(jobs) > 1 && !errors.Is(err, errUnusable):
			for _, j := range jobs { // some may fit where others don't, and the fault may be that of one only
				w.commit([]*job{j})
			}
			return others
		case v != again && v != conflict:
			fail(jobs, err, v)
			return others
		}
		if reason := trial.over(context.Background(), err); reason != nil {
			fail(jobs, reason, v)
			return others
		}
		if level = min(level+1, careful); v == again { // it may have been stored, which has to be known before it's refused
			level = careful
		}
		_ = pause(context.Background(), attempt)
	}
}

// endOf is when the last of the jobs has been tried for long enough.
func endOf(jobs []*job) (end time.Time) {
	for _, j := range jobs {
		if j.Work.end.After(end) {
			end = j.Work.end
		}
	}
	return end
}

// fail sets the error of jobs that have none. Mail of which a batch may be stored
// yet isn't said to have found no room.
func fail(jobs []*job, err error, v verdict) {
	for _, j := range jobs {
		if v == full && !j.Work.unsettled {
			j.Err = cmp.Or(j.Err, fmt.Errorf("jetstream: commit: %w: %w", store.ErrFull, err))
		}
		j.Err = cmp.Or(j.Err, fmt.Errorf("jetstream: commit: %w", err))
	}
}

// prepare runs jobs on a batch until nothing that they need is missing, and
// returns it with the number of jobs that are in it. Jobs that fail are left
// out, as are those whose caller has gone.
func (w *writer) prepare(jobs []*job, c care) (*batch, int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), max(time.Until(endOf(jobs)), attemptTimeout))
	defer cancel()
	read := make(map[string]message)
	at, wall := w.cache.clock.Now(), w.options.wall() // the same for all tries: a mailbox that is new has its IDs, and so its pages, by it
	for {
		b := newBatch(w, c, read, at, wall)
		n, err := w.runJobs(b, jobs)
		if errors.Is(err, errMissing) {
			if err := w.readMissing(ctx, b, w.engine.last); err != nil {
				return nil, 0, err
			}
			continue
		}
		if err == nil && n < len(jobs) {
			jobs = jobs[:n]
			continue
		}
		if errors.Is(err, errAgain) {
			continue
		}
		return b, n, err
	}
}

// errAgain says that a job has failed, and must not be in the batch.
var errAgain = errors.New("without this job")

func (w *writer) runJobs(b *batch, jobs []*job) (n int, err error) {
	for i, j := range jobs {
		if j.Err != nil {
			continue
		}
		if j.Err = j.Gone(); j.Err != nil {
			continue
		}
		b.unsettled = j.Work.unsettled
		switch e := j.Work.run(b); {
		case errors.Is(e, errMissing):
		case errors.Is(e, errUnsure):
			return 0, e
		case e != nil:
			j.Err = e
			return 0, errAgain
		case b.size() > w.maxMessages && i > 0:
			return i, nil
		}
	}
	if len(b.missing) > 0 {
		return 0, errMissing
	}
	return len(jobs), nil
}

// readMissing reads the messages that the jobs of a batch need.
func (w *writer) readMissing(ctx context.Context, b *batch, read reading) error {
	names := slices.Sorted(maps.Keys(b.missing)) // mailboxes before shares, as the cache wants them
	messages, err := w.engine.lastEach(ctx, names, read)
	if err != nil {
		return err
	}
	for i, subject := range names {
		b.read[subject] = messages[i]
		// A Put that finds its own mail in it must not answer before its mailbox is
		// known here.
		w.cache.learn(subject, messages[i])
	}
	return nil
}

// publish commits the batch, and then tells the cache and the receivers that wait.
func (w *writer) publish(b *batch, asking bool) error {
	messages := b.messages()
	if len(messages) == 0 {
		return nil
	}
	before := w.cache.last()
	first, err := w.engine.publish(messages, asking)
	if err != nil {
		return err
	}
	w.room.filled(messages)
	w.copies.add(messages, first, b.now+w.options.Retention.Milliseconds(), b.now)
	if first <= before { // these have sequences that others had: the stream has lost its end
		select {
		case w.shrunk <- struct{}{}:
		default:
		}
	}
	for i := range messages {
		w.cache.learn(messages[i].subject, message{first + uint64(i), messages[i].data})
	}
	return nil
}
