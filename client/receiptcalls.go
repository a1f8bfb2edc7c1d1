package client

import (
	"context"
	"fmt"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// PutReceipts brings a relay receipts, at most wire.MaxReceipts. Their destinations may be
// other servers. The relay keeps those for mail that it had, and removes the mail in its
// mailboxes that they are for.
func (c *Caller) PutReceipts(ctx context.Context, relay spec.ServerName, receipts []wire.Receipt) error {
	answer, err := c.receiptCall(ctx, c.config.Identity.ServerName, relay, http.MethodPut, wire.ReceiptsURI, wire.ReceiptsBody{Receipts: receipts})
	return isAnswer(answer, err)
}

// Receipts asks a relay for the receipts that destination has given this server, of those
// that the relay has numbered higher than after. The next ones follow the number that is
// returned. Their signatures aren't checked: see wire.Receipt.Check.
func (c *Caller) Receipts(ctx context.Context, relay, destination spec.ServerName, after int64) (receipts []wire.Receipt, next int64, err error) {
	answer, err := c.receiptCall(ctx, destination, relay, http.MethodGet, wire.AskReceiptsURI(destination, after), nil)
	if err != nil {
		return nil, 0, err
	}
	receipts, next, ok := wire.ReadNewReceipts(answer)
	if !ok {
		return nil, 0, fmt.Errorf("client: receipts of %s at %s: %w", destination, relay, errNoAnswer)
	}
	return receipts, next, nil
}

// maxReceiptsAnswer bounds an answer about receipts.
const maxReceiptsAnswer = 2 * wire.MaxReceiptsBytes

func (c *Caller) receiptCall(ctx context.Context, about, relay spec.ServerName, method, uri string, content any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, min(c.config.Timeout, DefaultRelayTimeout))
	defer cancel()
	return c.callAbout(ctx, about, relay, method, uri, content, maxReceiptsAnswer)
}
