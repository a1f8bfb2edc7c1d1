package relaytest

import (
	"math/rand/v2"
	"sync"
)

// Lossy returns a Host.Lose that loses these parts, from 0 to 1, of the requests
// and of the answers. The seed says which: the first request or answer, the
// second, and so on, as they come.
func Lossy(seed uint64, requests, answers float64) func() (request, answer bool) {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 0))
	return func() (request, answer bool) {
		mu.Lock()
		defer mu.Unlock()
		request, answer = random.Float64() < requests, random.Float64() < answers
		return request, answer
	}
}
