package client

import (
	"context"
	"fmt"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// Next acknowledges the entry whose ID is given (0: none) and returns the
// relay's answer, which holds the next transaction if EntriesQueued is true.
func (c *Caller) Next(ctx context.Context, relay spec.ServerName, acknowledge int64) (wire.Answer, error) {
	return c.Ask(ctx, relay, acknowledge, wire.Query{})
}

// Ask is Next with a query, which a deployed relay ignores: if the answer's More is
// nil, it did. The time that the answer may be held comes on top of
// CallerConfig.Timeout.
func (c *Caller) Ask(ctx context.Context, relay spec.ServerName, acknowledge int64, query wire.Query) (wire.Answer, error) {
	return c.askWith(ctx, relay, query, wire.Fetch{EntryID: acknowledge})
}

// askWith is Ask with receipts for mail that was handled.
func (c *Caller) askWith(ctx context.Context, relay spec.ServerName, query wire.Query, fetch wire.Fetch) (wire.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout+query.Timeout)
	defer cancel()
	ctx = c.toward(ctx, c.config.Identity.ServerName, relay)
	if p, ok := ctx.Value(pathKey{}).(*path); ok {
		p.hold = query.Timeout
	}
	answer, err := c.ask(ctx, relay, query, fetch)
	c.contacts.note(ctx, relay, err)
	return answer, err
}

func (c *Caller) ask(ctx context.Context, relay spec.ServerName, query wire.Query, fetch wire.Fetch) (answer wire.Answer, err error) {
	if !c.isWhole() {
		return c.federated().next(ctx, relay, c.user, fetch.EntryID)
	}
	uri := wire.RelayTxnURI(c.user) + query.Encode()
	request, err := c.sign(http.MethodGet, relay, uri, fetch)
	if err != nil {
		return wire.Answer{}, fmt.Errorf("client: %s: %w", uri, err)
	}
	read := wire.ReadAnswer
	if query.List {
		read = wire.ReadList
		request.Header.Set("Accept-Encoding", "gzip") // see roundTrip
	}
	body, err := c.do(ctx, relay, uri, request)
	if err != nil {
		return wire.Answer{}, err
	}
	if answer, err = read(body); err != nil {
		return wire.Answer{}, fmt.Errorf("client: %s: %w", relay, err)
	}
	return answer, nil
}
