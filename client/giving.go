package client

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// receiptEDU is the type of an EDU whose content is a receipt.
const receiptEDU = "org.matrixrelay.receipt"

// maxDue bounds the transactions that a relay is still to get receipts for. Their receipts
// come to be due again if the transactions come again.
const maxDue = 4000

// A giving is the receipts that a relay is to get from us for mail that it had.
type giving struct {
	due   []dueItem
	takes bool // the relay's last answer said that it takes them

	// byPut says that receipts don't go with requests for mail, for now, since such a
	// request has failed. If it was refused, they never do again.
	byPut, refused bool

	// waits says that the relay doesn't take them now: it is asked again in its next turn, which
	// comes after one held answer (see follow), or mail would wait for each attempt.
	waits bool
}

// A dueItem is a transaction that was handled, in a receipt for its origin.
type dueItem struct {
	origin spec.ServerName
	item   wire.ReceiptItem
}

// owe notes that the relay is to get a receipt for a transaction that was handled for
// certain.
func (g *giving) owe(origin spec.ServerName, item wire.ReceiptItem) {
	id := string(item.TransactionID)
	if id == "" || len(id) > wire.MaxTransactionIDBytes || !utf8.ValidString(id) || len(g.due) >= maxDue {
		return
	}
	g.due = append(g.due, dueItem{origin, item})
}

// owes reports whether the relay is still to get receipts that it takes.
func (g *giving) owes() bool { return g.takes && len(g.due) > 0 }

// hasReceiptsOnly reports whether a transaction has nothing in it but receipts. For those
// there are none, or two servers would never come to an end.
func hasReceiptsOnly(body []byte) bool {
	if !bytes.Contains(body, []byte(receiptEDU)) {
		return false
	}
	var t struct {
		PDUs []json.RawMessage `json:"pdus"`
		EDUs []struct {
			Type string `json:"edu_type"`
		} `json:"edus"`
	}
	if json.Unmarshal(body, &t) != nil || len(t.PDUs) > 0 {
		return false
	}
	for _, edu := range t.EDUs {
		if edu.Type != receiptEDU {
			return false
		}
	}
	return true
}

// sign makes receipts of those that are due, as many as one request may have, and returns
// the items that are left. There are none while the clock isn't set: their time would be
// wrong.
func (g *giving) sign(by fclient.SigningIdentity, now time.Time) (receipts []wire.Receipt, left []dueItem) {
	if year := now.UTC().Year(); year < 2025 || year > 2100 {
		return nil, g.due
	}
	items := make(map[spec.ServerName][]wire.ReceiptItem)
	var origins []spec.ServerName
	for _, d := range g.due {
		if items[d.origin] == nil {
			origins = append(origins, d.origin)
		}
		items[d.origin] = append(items[d.origin], d.item)
	}
	for _, origin := range origins {
		room := wire.MaxReceipts - len(receipts)
		due := items[origin]
		signed, err := wire.SignReceipts(origin, due[:min(len(due), room*wire.MaxReceiptItems)], now, by)
		if err != nil { // it isn't a name that receipts are for
			continue
		}
		for _, receipt := range signed[:min(len(signed), room)] {
			receipts, due = append(receipts, receipt), due[len(receipt.Items):]
		}
		for _, item := range due {
			left = append(left, dueItem{origin, item})
		}
	}
	return receipts, left
}

// request acknowledges the entries that were dealt with, gives the receipts that are due,
// and asks for more. The relay has the receipts before it forgets the mail, if it takes
// them; else mail mustn't wait for them.
func (m *mailbox) request(ctx context.Context, query wire.Query) (wire.Answer, error) {
	g, caller := &m.giving, m.receiver.config.Caller
	if !g.takes {
		g.due = nil
	}
	m.putReceipts(ctx)
	var receipts []wire.Receipt
	var left []dueItem
	if !g.byPut && len(g.due) > 0 {
		receipts, left = g.sign(caller.config.Identity, time.Now())
	}
	answer, err := caller.askWith(ctx, m.Relay, query, wire.Fetch{EntryID: m.last, Receipts: receipts})
	switch {
	case err == nil:
		m.acked, g.takes = m.last, answer.Receipts
		if len(receipts) > 0 {
			g.due = left
		}
	case len(receipts) > 0 && ctx.Err() == nil:
		// Proxies refuse long requests for mail, or drop their bodies.
		g.byPut, g.refused = true, isRefusal(err)
		if g.refused {
			return m.request(ctx, query)
		}
	}
	return answer, err
}

// isRefusal reports whether an error says that a request isn't taken as it is.
func isRefusal(err error) bool {
	return hasStatus(err, http.StatusBadRequest, http.StatusLengthRequired, http.StatusRequestEntityTooLarge,
		http.StatusRequestURITooLong, http.StatusRequestHeaderFieldsTooLarge, http.StatusForbidden, http.StatusBadGateway)
}

// putReceipts brings the relay the receipts that don't go with the next request for mail,
// as far as it takes them now.
func (m *mailbox) putReceipts(ctx context.Context) {
	g, caller := &m.giving, m.receiver.config.Caller
	for len(g.due) > 0 && !g.waits {
		receipts, left := g.sign(caller.config.Identity, time.Now())
		if len(receipts) == 0 || len(left) == 0 && !g.byPut {
			return
		}
		switch err := caller.PutReceipts(ctx, m.Relay, receipts); {
		case err == nil:
			g.due = left
		case isUnknownThere(err):
			g.takes, g.due = false, nil
		default:
			m.receiver.config.Logger.Debug("client: receipts", "relay", m.Relay, "error", err)
			if hasStatus(err, http.StatusForbidden, http.StatusRequestEntityTooLarge) { // it never will
				g.due = left
			}
			g.waits = true
		}
	}
}

// join takes over the receipts that a copy of it is still to give.
func (g *giving) join(ahead giving) {
	ahead.due = slices.Concat(ahead.due, g.due)
	ahead.due = ahead.due[:min(len(ahead.due), maxDue)]
	*g = ahead
}
