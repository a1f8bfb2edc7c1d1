// Package heap is container/heap for items that know their index in it, so that
// any of them can be removed.
package heap

import "container/heap"

// An Item is a pointer to something that can be in one Heap at a time.
type Item[T any] interface {
	// Before reports whether the item leaves the heap before another.
	Before(other T) bool

	// Index is where the heap keeps the index of the item.
	Index() *int
}

// A Heap has its next item first, and the others in no order. The zero value is
// empty. It isn't safe for concurrent use.
type Heap[T Item[T]] []T

// Push adds an item, which must not be in a heap.
func (h *Heap[T]) Push(item T) { heap.Push((*items[T])(h), item) }

// Remove takes out an item that is in this heap.
func (h *Heap[T]) Remove(item T) { heap.Remove((*items[T])(h), *item.Index()) }

// Fix puts an item in its place again, after it has changed.
func (h *Heap[T]) Fix(item T) { heap.Fix((*items[T])(h), *item.Index()) }

// items implement heap.Interface.
type items[T Item[T]] []T

func (s items[T]) Len() int           { return len(s) }
func (s items[T]) Less(i, j int) bool { return s[i].Before(s[j]) }

func (s items[T]) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	*s[i].Index(), *s[j].Index() = i, j
}

func (s *items[T]) Push(x any) {
	item := x.(T)
	*item.Index() = len(*s)
	*s = append(*s, item)
}

func (s *items[T]) Pop() any {
	last := len(*s) - 1
	item := (*s)[last]
	clear((*s)[last:])
	*s = (*s)[:last]
	return item
}
