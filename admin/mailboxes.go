package admin

import (
	"context"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// Mailboxes implements Operator.
func (d *Desk) Mailboxes(ctx context.Context, q MailboxQuery) ([]Mailbox, error) {
	after := q.After
	if q.Private {
		after = max(after, store.PrivateHalf)
	} else if store.IsPrivate(after) {
		return nil, wire.BadRequest(spec.ErrorInvalidParam, "after is a private name, and others are asked for")
	}
	names, err := d.wanted(ctx, q, after)
	if err != nil {
		return nil, err
	}
	page := []Mailbox{}
	for _, name := range names {
		mailbox, err := d.mailbox(ctx, name)
		if err != nil {
			return nil, err
		}
		page = append(page, *mailbox)
	}
	return page, nil
}

// wanted returns the names for a page of mailboxes.
func (d *Desk) wanted(ctx context.Context, q MailboxQuery, after spec.ServerName) (wanted []spec.ServerName, err error) {
	limit := pageOf(q.Limit)
	if !q.Unfetched || q.Private || d.config.Activity == nil {
		return d.names(ctx, q.Origin, after, limit)
	}
	for {
		names, err := d.names(ctx, q.Origin, after, MaxPage)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if _, fetched := d.config.Activity.LastAsked(name); fetched {
				continue
			}
			if wanted = append(wanted, name); len(wanted) == limit {
				return wanted, nil
			}
		}
		if len(names) < MaxPage {
			return wanted, nil
		}
		after = names[len(names)-1]
	}
}

// mailbox says how much a mailbox holds, and when it was fetched.
func (d *Desk) mailbox(ctx context.Context, name spec.ServerName) (*Mailbox, error) {
	held, err := d.held(ctx, name)
	mailbox := &Mailbox{Name: name, Held: held}
	if d.config.Activity == nil || store.IsPrivate(name) {
		return mailbox, err
	}
	if at, fetched := d.config.Activity.LastAsked(name); fetched {
		mailbox.LastFetch = &at
	} else {
		mailbox.NotSince = &at
	}
	return mailbox, err
}

// names returns those of mailboxes that have mail, from an origin if one is named.
func (d *Desk) names(ctx context.Context, origin, after spec.ServerName, limit int) (names []spec.ServerName, err error) {
	if origin != "" {
		names, err = d.managed.Recipients(ctx, origin, after, limit)
	} else {
		names, err = d.config.Store.Destinations(ctx, after, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("admin: the names of mailboxes: %w", err)
	}
	return names, nil
}

// Mailbox implements Operator.
func (d *Desk) Mailbox(ctx context.Context, name spec.ServerName) (*Mailbox, error) {
	if err := checkMailbox(name); err != nil {
		return nil, err
	}
	return d.mailbox(ctx, name)
}

func checkMailbox(name spec.ServerName) error {
	if name == "" || name == store.PrivateHalf || len(name) > store.MaxName {
		return wire.BadRequest(spec.ErrorInvalidParam, "a mailbox must be named")
	}
	return nil
}
