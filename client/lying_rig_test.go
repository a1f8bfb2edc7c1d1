package client_test

import (
	"net/http"
	"net/http/httptest"
	"slices"

	"github.com/matrixrelay/relay/wire"
)

// serveChanged answers a request as a handler does, with another body.
func serveChanged(h http.Handler, w http.ResponseWriter, r *http.Request, change func(body []byte) []byte) {
	real := httptest.NewRecorder()
	h.ServeHTTP(real, r)
	w.WriteHeader(real.Code)
	_, _ = w.Write(change(real.Body.Bytes()))
}

// changeMail changes each entry of an answer that has mail.
func changeMail(body []byte, change func(*wire.Item)) []byte {
	answer, err := wire.ReadAnswer(body)
	if err != nil || !answer.EntriesQueued {
		return body
	}
	var items []wire.Item
	for _, one := range append([]wire.Answer{answer}, answer.More...) {
		item := wire.Item{ID: one.EntryID, TransactionID: one.TransactionID, Transaction: one.Transaction, Proof: one.Proof}
		change(&item)
		items = append(items, item)
	}
	pieces := wire.MakeAnswer(items, answer.More != nil)
	if answer.Receipts {
		pieces = wire.TakingReceipts(pieces)
	}
	return slices.Concat(pieces...)
}
