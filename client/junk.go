package client

import (
	"fmt"
	"time"
)

// junkAnswers is how many answers in a row may have no use before their relay is
// left alone for a while, and how many more after each while. So mail that lies
// behind n answers of junk comes after n/junkAnswers pauses. An honest relay has
// hardly any junk: with batches, this is 16,000 transactions of it.
const junkAnswers = 32

// A junk is how many answers of a relay had no use. New mail is of use, and so is the
// first copy that this relay has of mail that another brought. All else is junk: mail
// that is rejected or can't be read, and mail that this relay has brought before. That
// is so even where it is handled, since without an ID it may be meant.
type junk struct {
	row  int       // in a row
	last time.Time // when there was one
}

// countJunk counts an answer. If there were too many without use in a row, it
// fails, and pause says how long the relay is to be left alone: for longer each
// time. An empty answer doesn't count, or a relay could give one in between.
func (m *mailbox) countJunk(use bool) error {
	j, backoff := &m.turn.junk, m.receiver.config.Backoff
	if use {
		*j = junk{}
		return nil
	}
	if time.Since(j.last) > 2*backoff.Most { // it isn't much
		j.row = 0
	}
	j.row++
	j.last = time.Now()
	if j.row%junkAnswers > 0 {
		return nil
	}
	m.pause = backoff.after(j.row/junkAnswers, 0)
	return fmt.Errorf("client: %d answers of %s in a row were of no use", j.row, m.Relay)
}
