package client_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// A scripted is a relay that holds entries 1 to last for b, whose PDU is their
// ID, and answers as a test has it.
type scripted struct {
	b    *inbox
	last int64
	size int // of each, about

	// Body, if it isn't nil, makes the transaction of an entry.
	body func(id int64) string

	// Odd, if it isn't nil, may change the query, or answer itself.
	odd func(w http.ResponseWriter, a *ask) (answered bool)

	mu    sync.Mutex
	gone  int64 // acknowledged
	asked []ask
	given int // how many entries
}

// An ask is a request for mail.
type ask struct {
	number      int // of this request, from 1
	acknowledge int64
	wire.Query
}

// scripted puts a relay on the network.
func (b *inbox) scripted(name spec.ServerName, s *scripted) *scripted {
	s.b = b
	b.net.Set(name, relaytest.Host{Handler: s, Latency: 10 * time.Millisecond})
	return s
}

func (s *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	uri, _ := wire.SignedURI(r)
	route, err := wire.ParseURI(uri)
	require.NoError(s.b, err)
	body, err := io.ReadAll(r.Body)
	require.NoError(s.b, err)
	id, err := wire.ReadEntryID(body)
	require.NoError(s.b, err)
	a := ask{len(s.asked) + 1, id, route.Query}
	s.asked = append(s.asked, a)
	if id > 0 && id <= s.last {
		s.gone = max(s.gone, id)
	}
	if s.odd == nil || !s.odd(w, &a) {
		_, _ = w.Write(s.answer(a.Query))
	}
}

// answer is the answer of a relay that works as it should.
func (s *scripted) answer(q wire.Query) []byte {
	var items []wire.Item
	for id := max(s.gone, q.After) + 1; id <= s.last && len(items) < max(1, q.Limit); id++ {
		body := fmt.Sprintf(`{"origin":"a","pdus":[{"n":%d}],"x":"%0*d"}`, id, s.size, 0)
		if s.body != nil {
			body = s.body(id)
		}
		items = append(items, wire.Item{ID: id, Transaction: []byte(body)})
	}
	s.given += len(items)
	switch {
	case len(items) > 0:
		return slices.Concat(wire.MakeAnswer(items, q.Limit > 0)...)
	case q.Limit > 0:
		return []byte(wire.EmptyBatch)
	}
	return []byte(wire.EmptyAnswer)
}

// add gives it one more entry.
func (s *scripted) add() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
}

// limits are those that were asked for.
func (s *scripted) limits() (limits []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.asked {
		limits = append(limits, a.Limit)
	}
	return limits
}

// held is how many entries b has and hasn't dealt with.
func (s *scripted) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.given - len(s.b.handled)
}

// upTo are the PDUs of entries from one to another.
func upTo(from, to int) (pdus []string) {
	for i := from; i <= to; i++ {
		pdus = append(pdus, fmt.Sprint(i))
	}
	return pdus
}
