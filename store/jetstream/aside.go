package jetstream

import (
	"errors"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A setAsideJob takes an entry that can't be read out of its mailbox; done says
// that it did.
type setAsideJob struct {
	destination spec.ServerName
	item        item
	why         error
	done        bool
	runs        int
}

// maxSetAside bounds how often a setAsideJob may run: it runs again if others
// write at the same time, but also if the leader has a message of which it can
// say neither what it is nor that it isn't there.
const maxSetAside = 64

func (s *setAsideJob) run(b *batch) error {
	s.done = false // it may run again
	if s.runs++; s.runs > maxSetAside {
		return s.why
	}
	if b.care < careful { // another server than the leader may have it damaged
		return errUnsure
	}
	x, err := b.box(s.destination)
	if err != nil || x.value == nil {
		return err
	}
	m, changed, err := b.meta(s.destination, x, s.item.place)
	if err != nil || m == nil || m.key != s.item.key || m.state != live {
		return err // somebody else has done it, or removed it
	}
	messages, err := s.messages(b)
	share, err2 := b.share(s.destination, m.origin)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	if _, err := check(s.item, messages); err == nil {
		return nil
	}
	s.done, m.state, *changed = true, setAside, true
	b.count(s.destination, x, share, -1, -m.size)
	x.value.aside++
	b.prove(s, messages)
	return nil
}

// messages returns those of the mail, as they are in the stream.
func (s *setAsideJob) messages(b *batch) (messages []message, err error) {
	for _, subject := range b.subjects.messages(s.item) {
		m, e := b.message(subject, false)
		if e != nil {
			err = e
		}
		messages = append(messages, m)
	}
	return messages, err
}

// prove makes the commit depend on that what can't be read is all that the
// leader has. It says so in the stream, which is a help to whoever wonders.
func (b *batch) prove(s *setAsideJob, messages []message) {
	subjects := b.subjects.messages(s.item)
	for i, m := range messages {
		b.send(outgoing{
			subject: b.subjects.damage(s.destination, s.item.place, i), data: []byte(s.why.Error()), ttl: emptyFor,
			checked: true, seq: m.seq, checks: subjects[i],
		})
	}
}
