package storetest

import (
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// removeSome removes entries, and tries to remove others that aren't there.
func (m *model) removeSome() {
	managed, ok := m.Store.(store.Managed)
	if !ok {
		return
	}
	to := pick(m, m.names)
	var remove []int64
	for range 1 + m.rand.IntN(4) {
		remove = append(remove, m.id(to))
	}
	isOver := func(entry store.Entry) bool { return slices.Contains(remove, entry.ID) }
	before := m.boxes[to]
	m.boxes[to] = slices.DeleteFunc(slices.Clone(before), isOver)
	m.note("remove %v of %s", remove, to)
	removed, err := managed.Remove(m.Context(), to, remove)
	require.NoError(m, err)
	require.Equal(m, len(before)-len(m.boxes[to]), removed)
	if m.removed[to] == nil {
		m.removed[to] = make(map[int64]bool)
	}
	for _, entry := range before {
		if isOver(entry) {
			m.gone, m.removed[to][entry.ID] = append(m.gone, entry.ID), true
			m.leave([]store.Entry{entry})
		}
	}
}

// look compares the lists of entries, of senders and of recipients.
func (m *model) look() {
	if _, ok := m.Store.(store.Managed); !ok {
		return
	}
	to := pick(m, m.names)
	m.note("look at %s", to)
	m.lists(to, m.boxes[to], 1+m.rand.IntN(5))
	require.Equal(m, m.sendersIn(to), m.senders(to, 10))
	half := pick(m, halfNames)
	if !m.place.allows(half) {
		return
	}
	inHalf := slices.DeleteFunc(slices.Sorted(slices.Values(m.names)), func(name spec.ServerName) bool { return store.IsPrivate(name) != store.IsPrivate(half) })
	require.Equal(m, m.sendersIn(inHalf...), m.senders(half, 10))
	origin := pick(m, modelOrigins)
	want := slices.DeleteFunc(inHalf, func(name spec.ServerName) bool { return m.use(name, origin).Entries == 0 })
	require.Equal(m, want, m.recipients(origin, half, 1+m.rand.IntN(3)))
}

// sendersIn is the right answer of Senders for mailboxes.
func (m *model) sendersIn(names ...spec.ServerName) []store.Sender {
	senders := []store.Sender{}
	for _, origin := range modelOrigins {
		sender := store.Sender{Origin: origin}
		for _, name := range names {
			if use := m.use(name, origin); use.Entries > 0 {
				sender.Mailboxes++
				sender.Entries += use.Entries
				sender.Bytes += use.Bytes
			}
		}
		if sender.Mailboxes > 0 {
			senders = append(senders, sender)
		}
	}
	slices.SortFunc(senders, store.CompareSenders)
	return senders
}
