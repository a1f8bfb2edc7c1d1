// Package table has maps of a bounded size that forget the least used.
package table

import "container/list"

// A Table is a map of a bounded size that forgets the least used. It isn't safe for
// concurrent use. Make one with New.
type Table[K comparable, V any] struct {
	most    int
	entries map[K]*list.Element
	order   list.List // of row, the last used first
}

type row[K comparable, V any] struct {
	key   K
	value V
}

// New returns a Table of so many keys at most, and at least one.
func New[K comparable, V any](most int) *Table[K, V] {
	return &Table[K, V]{most: max(most, 1), entries: make(map[K]*list.Element)}
}

// Get returns the value for a key.
func (t *Table[K, V]) Get(key K) (value V, ok bool) {
	e, ok := t.entries[key]
	if !ok {
		return value, false
	}
	t.order.MoveToFront(e)
	return e.Value.(*row[K, V]).value, true
}

// Find returns the value for a key, and puts a new one into the table if there is none.
func (t *Table[K, V]) Find(key K, newOne func() V) V {
	value, ok := t.Get(key)
	if !ok {
		value = newOne()
		t.Set(key, value)
	}
	return value
}

// Set puts a value into the table.
func (t *Table[K, V]) Set(key K, value V) {
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

// Remove forgets a key.
func (t *Table[K, V]) Remove(key K) {
	if e, ok := t.entries[key]; ok {
		t.order.Remove(e)
		delete(t.entries, key)
	}
}

// IsFull reports whether the least used key is forgotten for one more.
func (t *Table[K, V]) IsFull() bool { return t.order.Len() >= t.most }

// Last returns the least used key.
func (t *Table[K, V]) Last() (key K, ok bool) {
	last := t.order.Back()
	if last == nil {
		return key, false
	}
	return last.Value.(*row[K, V]).key, true
}
