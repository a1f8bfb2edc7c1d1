package group

import (
	"sync"
	"time"

	"github.com/matrixrelay/relay/store"
)

// listeners are told of commits. The zero value has none.
type listeners struct {
	mu   sync.Mutex
	last int
	all  map[int]func(store.Commit)
}

// OnCommit is that of store.Committing.
func (q *Queue[W]) OnCommit(tell func(store.Commit)) (stop func()) { return q.told.add(tell) }

func (l *listeners) add(tell func(store.Commit)) (stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = make(map[int]func(store.Commit))
	}
	l.last++
	n := l.last
	l.all[n] = tell
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.all, n)
	}
}

func (l *listeners) tell(c store.Commit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, tell := range l.all {
		tell(c)
	}
}

func commitOf[W any](jobs []*Job[W], took time.Duration) store.Commit {
	c := store.Commit{Calls: len(jobs), Took: took}
	for _, j := range jobs {
		c.Bytes += j.Size
	}
	return c
}
