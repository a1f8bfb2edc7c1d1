package sqlite

import (
	"cmp"
	"context"
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
	if p.stored, err = b.insert(&p.mail, m, key[:]); err != nil || !p.stored {
		return err
	}
	b.woken[p.mail.Destination] = struct{}{}
	return b.count(p.mail.Destination, m, p.mail.Origin, 1, p.mail.Size())
}

// makeRoom is for mail that doesn't fit: a copy is no addition, and mail that
// has expired is in nobody's way.
func (p *putJob) makeRoom(b *batch, m *mailbox, key []byte) (fits bool, err error) {
	if known, err := b.isKnown(key); err != nil || known {
		return false, err
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

// insert stores the mail unless it is a copy.
func (b *batch) insert(mail *store.Mail, m *mailbox, key []byte) (stored bool, err error) {
	id, until := b.last+1, steady.Until(b.now, mail.Lifetime)
	if id > store.MaxID {
		return false, errors.New("there are no more IDs")
	}
	result, err := b.sql.insert.Exec(id, m.id, key, until, mail.Size(), string(mail.Origin), string(mail.TransactionID),
		mail.Digest[:], checksum(id, m.last, until, mail.Body, mail.Proof), mail.Proof, mail.Body, m.last)
	if err != nil {
		return false, fmt.Errorf("insert: %w", err)
	}
	b.written += mail.Size() + 2*rowCost
	if n, err := result.RowsAffected(); err != nil || n > 0 {
		b.last, m.last = id, id
		return true, err
	}
	return false, nil
}

// isKnown reports whether there is mail with that key: see Store.checkCopy.
func (b *batch) isKnown(key []byte) (bool, error) {
	var known int
	err := b.sql.known.QueryRow(key).Scan(&known)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("known: %w", err)
	}
	return true, nil
}

// checkCopy makes sure that mail which was taken for a copy is there: a sender must
// not take damaged mail for stored. Unlike the writer, which has much in memory,
// readers look into the file since that commit.
func (s *Store) checkCopy(ctx context.Context, mail *store.Mail) error {
	err := s.reader.checkCopy(ctx, seal.KeyOf(mail))
	if isDamage(err) {
		s.writer.damaged(err)
		return cmp.Or(s.trust.Failure(), err)
	}
	return err
}

func (r *reader) checkCopy(ctx context.Context, key seal.Key) error {
	return r.with(ctx, func(c *readConn) error {
		row, err := c.known.byKey(key)
		switch {
		case errors.Is(err, sql.ErrNoRows): // its retention has just ended
			return nil
		case err != nil:
			return wrap("known", err)
		case !row.isGoneRow() && (row.state != live || !row.isProven()):
			return fmt.Errorf("%w: entry %d is", errDamaged, row.id)
		}
		return nil
	})
}
