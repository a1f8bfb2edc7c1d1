package sqlite

import (
	"database/sql"
	"errors"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
	"github.com/matrixrelay/relay/store/internal/steady"
)

// A putJob stores mail. Stored and refused are its outcome.
type putJob struct {
	mail    store.Mail
	limits  store.Limits
	stored  bool
	refused error
}

func (p *putJob) run(b *batch) error {
	p.stored, p.refused = false, nil // it may run again
	key := seal.KeyOf(&p.mail)
	m, err := b.mailbox(p.mail.Destination)
	if err != nil {
		return err
	}
	fits, err := p.fits(b, m)
	if err != nil {
		return err
	}
	if !fits {
		if fits, err = p.makeRoom(b, m, key[:]); err != nil || !fits {
			return err
		}
	}
	if m.id == 0 {
		if err := b.create(p.mail.Destination, m); err != nil {
			return err
		}
	}
	if p.stored, err = b.insert(&p.mail, m.id, key[:]); err != nil || !p.stored {
		return err
	}
	b.woken[p.mail.Destination] = struct{}{}
	return b.count(p.mail.Destination, m, p.mail.Origin, 1, p.mail.Size())
}

// makeRoom is for mail that doesn't fit: a copy is no addition, and mail that
// has expired is in nobody's way.
func (p *putJob) makeRoom(b *batch, m *mailbox, key []byte) (fits bool, err error) {
	var known int
	if err := b.sql.known.QueryRow(key).Scan(&known); err == nil {
		return false, nil
	} else if !errors.Is(err, sql.ErrNoRows) {
		return false, fmt.Errorf("known: %w", err)
	}
	for range 4 {
		more, err := b.expire()
		if err != nil {
			return false, err
		}
		if fits, err = p.fits(b, m); err != nil || fits {
			return fits, err
		}
		if !more {
			break
		}
	}
	p.refused = fmt.Errorf("sqlite: mail from %s for %s: %w", p.mail.Origin, p.mail.Destination, store.ErrFull)
	return false, nil
}

func (p *putJob) fits(b *batch, m *mailbox) (bool, error) {
	if b.noRoom {
		return false, nil
	}
	s, err := b.share(m, p.mail.Origin)
	if err != nil {
		return false, err
	}
	within := func(limit, have, more int64) bool { return limit <= 0 || have+more <= limit }
	size, l, total := p.mail.Size(), p.limits, b.total.of(p.mail.Destination)
	return within(l.Entries, m.entries, 1) && within(l.Bytes, m.bytes, size) &&
		within(l.OriginEntries, s.entries, 1) && within(l.OriginBytes, s.bytes, size) &&
		within(l.StoreEntries, total.entries, 1) && within(l.StoreBytes, total.bytes, size), nil
}

func (b *batch) create(destination spec.ServerName, m *mailbox) error {
	result, err := b.sql.newMailbox.Exec(string(destination))
	if err != nil {
		return fmt.Errorf("new mailbox: %w", err)
	}
	m.id, err = result.LastInsertId()
	return err
}

// raiseIDs is for the first entry since the file was opened: it may have been
// set back to an earlier copy, see store.FirstID.
func (b *batch) raiseIDs() error {
	if b.raise == 0 {
		return nil
	}
	if _, err := b.sql.raise.Exec(b.raise); err != nil {
		return fmt.Errorf("raise the IDs: %w", err)
	}
	b.raise = 0
	return nil
}

// insert stores the mail unless it is a copy.
func (b *batch) insert(mail *store.Mail, mailboxID int64, key []byte) (stored bool, err error) {
	if err := b.raiseIDs(); err != nil {
		return false, err
	}
	until := steady.Until(b.now, mail.Lifetime)
	result, err := b.sql.insert.Exec(mailboxID, key, until, mail.Size(), string(mail.Origin),
		string(mail.TransactionID), mail.Digest[:], seal.Checksum(until, mail.Body, mail.Proof), mail.Proof, mail.Body)
	if err != nil {
		return false, fmt.Errorf("insert: %w", err)
	}
	n, err := result.RowsAffected()
	b.written += mail.Size() + 2*rowCost
	return n > 0, err
}
