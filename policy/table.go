package policy

import "container/list"

// A table is a map of a bounded size that forgets the least used. It isn't safe for
// concurrent use.
type table[K comparable, V any] struct {
	most    int
	entries map[K]*list.Element
	order   list.List // of row, the last used first
}

type row[K comparable, V any] struct {
	key   K
	value V
}

func newTable[K comparable, V any](most int) *table[K, V] {
	return &table[K, V]{most: most, entries: make(map[K]*list.Element)}
}

// get returns the value for a key.
func (t *table[K, V]) get(key K) (value V, ok bool) {
	e, ok := t.entries[key]
	if !ok {
		return value, false
	}
	t.order.MoveToFront(e)
	return e.Value.(*row[K, V]).value, true
}

// set has the table know a value.
func (t *table[K, V]) set(key K, value V) {
	if e, ok := t.entries[key]; ok {
		e.Value.(*row[K, V]).value = value
		t.order.MoveToFront(e)
		return
	}
	if t.order.Len() >= t.most {
		last := t.order.Back()
		delete(t.entries, last.Value.(*row[K, V]).key)
		t.order.Remove(last)
	}
	t.entries[key] = t.order.PushFront(&row[K, V]{key, value})
}

// remove forgets a key.
func (t *table[K, V]) remove(key K) {
	if e, ok := t.entries[key]; ok {
		t.order.Remove(e)
		delete(t.entries, key)
	}
}

// isFull reports whether one more key has the least used forgotten.
func (t *table[K, V]) isFull() bool { return t.order.Len() >= t.most }

// last returns the least used key.
func (t *table[K, V]) last() (key K, ok bool) {
	last := t.order.Back()
	if last == nil {
		return key, false
	}
	return last.Value.(*row[K, V]).key, true
}
