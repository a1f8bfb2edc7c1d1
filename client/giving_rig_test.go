package client_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// A taker stands before relay r1 of a provenInbox, says that it takes receipts, and notes
// those that come.
type taker struct {
	p    *provenInbox
	real http.Handler

	says   func(answer []byte) []byte // that it takes them
	refuse func(r *http.Request, receipts int) *wire.Error

	mu       sync.Mutex
	requests []string // "GET" or "PUT", and the items of the receipts in it
	items    []string
}

// inGiving runs a test in which b, which checks proofs, gives receipts to r1.
func inGiving(t *testing.T, change func(*client.ReceiverConfig), run func(*provenInbox, *taker)) {
	inProvenInbox(t, func(c *client.ReceiverConfig) {
		c.Receipts = true
		if change != nil {
			change(c)
		}
	}, func(p *provenInbox) {
		time.Sleep(time.Until(recordTime))
		on := p.net.Host(r1)
		at := &taker{p: p, real: on.Handler}
		at.says = func(answer []byte) []byte { return bytes.Join(wire.TakingReceipts([][]byte{answer}), nil) }
		on.Handler = at
		p.net.Set(r1, on)
		p.notes(nil)
		run(p, at)
	})
}

func (a *taker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut && !strings.HasSuffix(r.URL.Path, "/receipts") {
		a.real.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	require.NoError(a.p, err)
	r.Body = io.NopCloser(bytes.NewReader(body))
	receipts, err := wire.ReadReceipts(body)
	require.NoError(a.p, err)
	if a.refuse != nil {
		if why := a.refuse(r, len(receipts)); why != nil {
			why.Write(w)
			return
		}
	}
	a.take(r.Method, receipts)
	if r.Method == http.MethodPut {
		_, _ = w.Write(wire.ClearedAnswer(0))
		return
	}
	serveChanged(a.real, w, r, a.says)
}

func (a *taker) take(method string, receipts []wire.Receipt) {
	var items []string
	for _, receipt := range receipts {
		require.NoError(a.p, receipt.Check(a.p.Context(), relaytest.Keys(), time.Now()))
		require.Equal(a.p, nodeB, receipt.Destination)
		require.EqualValues(a.p, time.Now().Truncate(time.Hour).UnixMilli(), receipt.TS)
		for _, item := range receipt.Items {
			items = append(items, string(item.TransactionID))
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(items) > 0 {
		a.requests = append(a.requests, fmt.Sprint(method, " ", strings.Join(items, " ")))
		a.items = append(a.items, items...)
	}
}

// got are the transactions that the relay got receipts for since the last call, in order.
func (a *taker) got() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	items := a.items
	a.items, a.requests = nil, nil
	slices.Sort(items)
	return items
}

// how are the requests with receipts since the last call.
func (a *taker) how() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	requests := a.requests
	a.items, a.requests = nil, nil
	return requests
}
