// Package frequent finds the most frequent of any number of names in little memory.
package frequent

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// maxName is how much of a name is kept, in bytes: strangers can make up any name.
const maxName = 255

// A Top counts names in a table of so many, at least one. A new name takes the place of
// the rarest and its count with it, so those that are frequent stay, and counts may be too
// large but never too small. It isn't safe for concurrent use.
type Top struct {
	most   int
	counts map[string]int64
}

// A Count is a name and how often it was added.
type Count struct {
	Name  string `json:"name"`
	Times int64  `json:"times"`
}

// New returns a Top for so many names.
func New(most int) Top { return Top{most: most} }

// Short is the part of a name that a Top keeps.
func Short(name string) string {
	if len(name) > maxName {
		return strings.ToValidUTF8(name[:maxName], "") + "..."
	}
	return name
}

// Add counts a name, unless it is empty. It keeps a copy: a name may be a piece of a long
// header, which would be kept with it.
func (t *Top) Add(name string) { t.add(strings.Clone(Short(name)), 1) }

func (t *Top) add(name string, times int64) {
	if name == "" {
		return
	}
	if t.counts == nil {
		t.counts = make(map[string]int64)
	}
	if _, ok := t.counts[name]; ok || len(t.counts) < t.most {
		t.counts[name] += times
		return
	}
	rarest, least := "", int64(0)
	for other, n := range t.counts {
		if rarest == "" || n < least {
			rarest, least = other, n
		}
	}
	delete(t.counts, rarest)
	t.counts[name] = least + times
}

// Join adds the counts of another Top.
func (t *Top) Join(other *Top) {
	for _, c := range other.List(len(other.counts)) {
		t.add(c.Name, c.Times)
	}
}

// List returns up to so many of the most frequent, which come first.
func (t *Top) List(most int) []Count {
	names := slices.SortedFunc(maps.Keys(t.counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(t.counts[b], t.counts[a]), strings.Compare(a, b))
	})
	list := make([]Count, 0, min(most, len(names)))
	for _, name := range names[:min(most, len(names))] {
		list = append(list, Count{name, t.counts[name]})
	}
	return list
}
