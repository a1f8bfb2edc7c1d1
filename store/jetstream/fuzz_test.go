package jetstream

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// FuzzDecode has everything that reads messages of the stream read anything. Bytes that
// are taken for a record are one that the rest can go by, and are written as such.
func FuzzDecode(f *testing.F) {
	mail := testMail("first")
	messages, err := messagesOf(&mail, 7, 0, nonce{1}, 4000)
	require.NoError(f, err)
	full := &box{counts: counts{3, 30, 1}, start: 5, mark: 38, base: 37, soonest: 9, tail: make([]meta, 4)}
	f.Add(messages[0])
	f.Add(encode(full))
	f.Add(encode(newPage(pageSize)))
	f.Add(encode(&counts{1, 2, 3}))
	f.Add(encode(&clockRecord{1795756188988, store.MaxID}))
	jumped := &box{counts: counts{2, 20, 0}, start: 5, mark: 5, base: 5, tail: make([]meta, 3), jumps: []jump{{6, 10}, {7, 99}}}
	f.Add(encode(jumped))
	for _, damaged := range []*box{
		{start: 70, base: 40}, {start: 1, mark: 9, base: 1}, {start: 1, base: 1 + 1<<60},
		{start: 1, base: 1, tail: []meta{{parts: 1 << 60}}}, {start: 1, base: 1, tail: []meta{{state: gone + 1}}},
	} {
		f.Add(encode(damaged))
	}
	f.Add([]byte(`{"message":{"seq":1,"data":"AQ=="}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := mailOf([][]byte{data, data}); err == nil {
			require.LessOrEqual(t, m.Size(), int64(2*len(data)))
		}
		_, _, _ = putBy(data)
		_, _ = readLast(data)
		_, _ = subjects("R").boxName(string(data))
		staysTheSame(t, data, new(clockRecord), new(clockRecord))
		staysTheSame(t, data, new(page), new(page))
		staysTheSame(t, data, new(counts), new(counts))
		if b := new(box); staysTheSame(t, data, b, new(box)) {
			fitsTogether(t, b)
		}
	})
}

func newPage(n int) *page {
	p := make(page, n)
	return &p
}

// staysTheSame reports whether data can be read, and requires that it is then
// read again as it was.
func staysTheSame(t *testing.T, data []byte, first, again form) bool {
	if decode(data, first) != nil {
		return false
	}
	require.NoError(t, decode(encode(first), again))
	require.Equal(t, first, again)
	return true
}

func fitsTogether(t *testing.T, b *box) {
	require.LessOrEqual(t, b.next()-1, int64(store.MaxID))
	require.Less(t, b.mark, b.next())
	for _, id := range []int64{b.mark + 1, b.base - 1, b.next() - 1} {
		if id <= b.mark || id >= b.next() {
			continue
		}
		first := b.pageOf(id)
		require.LessOrEqual(t, first, id)
		require.Less(t, id-first, int64(pageSize))
		require.GreaterOrEqual(t, first, b.start)
		require.Equal(t, id < b.base, first < b.base)
	}
	for _, m := range b.tail {
		require.Less(t, m.parts, int64(maxParts))
		require.LessOrEqual(t, m.state, gone)
	}
}
