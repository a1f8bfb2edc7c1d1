package jetstream

import "github.com/matrix-org/gomatrixserverlib/spec"

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
// write at the same time, but also if the leader has a message that it can neither
// read nor call missing.
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
	if err != nil {
		return err
	}
	m, changed, err := b.meta(s.destination, x, s.item.place)
	if err != nil || m == nil || m.key != s.item.key || m.state != live {
		return err // another process has done it, or removed it
	}
	share, err := b.share(s.destination, m.origin)
	subjects := b.subjects.messages(s.item)
	messages := make([]message, len(subjects))
	for i, subject := range subjects {
		var e error
		if messages[i], e = b.message(subject, false); e != nil {
			err = e
		}
	}
	if err != nil {
		return err
	}
	if _, err := check(s.item, messages); err == nil {
		return nil
	}
	s.done, m.state, *changed = true, setAside, true
	b.count(s.destination, x, share, -1, -m.size)
	x.value.aside++
	// The commit succeeds only if these messages are all that the leader has. It
	// leaves the reason in the stream, for operators that wonder.
	for i, subject := range subjects {
		b.send(outgoing{
			subject: b.subjects.damage(s.destination, s.item.place, i), data: []byte(s.why.Error()), ttl: emptyFor,
			checked: true, seq: messages[i].seq, checks: subject,
		})
	}
	return nil
}
