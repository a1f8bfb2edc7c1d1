package client_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// sent is a transaction that an outbox took.
type sent struct {
	key    mailKey
	number int // of those of its origin for its destination
	body   []byte
	digest [32]byte
	again  bool // others may be alike
}

// A copyKey is how a transaction looks to its destination.
type copyKey struct {
	destination spec.ServerName
	body        string
}

// compose makes a transaction. Some have no PDUs, and are like others.
func (m *member) compose(to *member) *sent {
	m.numbers[to]++
	s := &sent{number: m.numbers[to], again: m.script.chance(25)}
	s.key = mailKey{to.name, m.name, gomatrixserverlib.TransactionID(fmt.Sprintf("%.6s-%d", m.name, s.number))}
	body := map[string]any{"origin_server_ts": time.Now().UnixMilli(), "x.number": s.number, "pdus": []any{}}
	if m.script.chance(75) {
		body["origin"] = m.name
	}
	if s.again {
		body["edus"] = []any{map[string]any{"edu_type": "m.typing", "x.extra": m.script.IntN(2), "content": map[string]any{"ü": []int{1}}}}
	} else {
		size := 300 + m.script.IntN(8)/7*2000
		body["pdus"] = []any{relaytest.PDU(string(s.key.id), m.name, size)}
	}
	var err error
	s.body, err = json.Marshal(body)
	require.NoError(m.n, err)
	canonical, err := gomatrixserverlib.CanonicalJSON(s.body)
	require.NoError(m.n, err)
	content, err := wire.ReadContent(canonical)
	require.NoError(m.n, err)
	s.digest = content.Digest
	m.n.mu.Lock()
	defer m.n.mu.Unlock()
	m.n.sent[copyKey{to.name, string(canonical)}] = s
	m.n.sent[copyKey{to.name, string(wire.WithOrigin(canonical, m.name))}] = s
	return s
}

func (n *network) find(destination spec.ServerName, body string) *sent {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent[copyKey{destination, body}]
}

func (n *network) nameOf(destination spec.ServerName, body string) string {
	if s := n.find(destination, body); s != nil {
		return string(s.key.id)
	}
	return body
}

// check looks at how everything ended, when all is quiet.
func (n *network) check() {
	all := make(map[*sent]bool)
	for _, s := range n.sent {
		all[s] = true
	}
	alike := make(map[*member]map[alikeKey]*tally)
	for _, m := range n.members {
		alike[m] = make(map[alikeKey]*tally)
		m.checkOrder()
		m.count(alike[m])
	}
	for s := range all {
		n.checkEnd(s)
		to := n.member(s.key.destination)
		t := alike[to][alikeKey{s.key.origin, s.digest}]
		if t == nil {
			n.Errorf("%s was never handled by %.6s", s.key.id, to.name)
			continue
		}
		t.sent++
		if to.home.direct[s.key] {
			t.direct++
		}
		for _, d := range n.dropboxes {
			if d.ledger.has(s.key) {
				t.at[d.name]++
			}
		}
		t.example = s
	}
	for _, m := range n.members {
		for _, t := range alike[m] {
			n.checkTally(m, t)
		}
	}
}

func (n *network) member(name spec.ServerName) *member {
	return n.members[slices.IndexFunc(n.members, func(m *member) bool { return m.name == name })]
}

// An alikeKey is the same for transactions that no receiver can tell
// from copies.
type alikeKey struct {
	origin spec.ServerName
	digest [32]byte
}

// A tally counts transactions that are alike.
type tally struct {
	handled, throughRelays int
	sent, direct           int
	at                     map[spec.ServerName]int // each relay
	example                *sent
}

// count counts the handled mail, which must be the sent mail, byte for byte.
func (m *member) count(alike map[alikeKey]*tally) {
	for _, got := range m.home.handled {
		s := m.n.find(m.name, got.body)
		if s == nil || s.key.origin != got.origin {
			m.n.Errorf("%.6s handled what nobody sent: %s from %s", m.name, got.body, got.origin)
			continue
		}
		k := alikeKey{got.origin, s.digest}
		if alike[k] == nil {
			alike[k] = &tally{at: make(map[spec.ServerName]int)}
		}
		alike[k].handled++
		if got.relay != "" {
			alike[k].throughRelays++
		}
	}
}

// checkTally checks that contents were handled as often as they were sent: all
// relays here say transaction IDs, which tell EDUs that are alike from copies.
func (n *network) checkTally(m *member, t *tally) {
	most := 0
	for _, count := range t.at {
		most = max(most, count)
	}
	if t.handled != t.sent || t.throughRelays > t.sent {
		n.Errorf("%.6s handled %s %d times, %d through relays; %d were sent, %d came directly, relays had %v",
			m.name, t.example.key.id, t.handled, t.throughRelays, t.sent, t.direct, t.at)
	}
}

// checkOrder checks that mail that came from one relay, or directly from one
// origin, came in its order.
func (m *member) checkOrder() {
	last := make(map[spec.ServerName]int64)
	for _, got := range m.home.handled {
		if got.relay == "" {
			continue
		}
		if got.entry <= last[got.relay] {
			m.n.Errorf("%.6s handled entry %d of %s after %d", m.name, got.entry, got.relay, last[got.relay])
		}
		last[got.relay] = got.entry
	}
	number := make(map[spec.ServerName]int)
	for _, k := range m.home.arrival {
		var at int
		if _, err := fmt.Sscanf(string(k.id)[7:], "%d", &at); err != nil || at <= number[k.origin] {
			m.n.Errorf("%s came directly to %.6s after number %d (%v)", k.id, m.name, number[k.origin], err)
		}
		number[k.origin] = at
	}
}

// checkEnd checks the outbox's events of a transaction: that relays took it,
// if they did, and after that its end, once.
func (n *network) checkEnd(s *sent) {
	from, to := n.member(s.key.origin), n.member(s.key.destination)
	told := from.home.ended[s.key]
	rest := told
	for len(rest) > 0 && rest[0] == client.ResultRelayed {
		rest = rest[1:]
	}
	switch {
	case slices.Equal(rest, []client.Result{client.ResultDelivered}):
		if !to.home.direct[s.key] {
			n.Errorf("%s is said to be delivered to %.6s, and isn't", s.key.id, to.name)
		}
	case len(told) > 1 && slices.Equal(rest, []client.Result{client.ResultDropped}):
	default:
		n.Errorf("the outbox told of %s: %v", s.key.id, told)
	}
}
