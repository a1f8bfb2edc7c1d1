package client_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"

	"github.com/matrixrelay/relay/wire"
)

// A recordLiar is a relay that isn't honest, in one of these ways.
type recordLiar struct {
	http.Handler
	lie string

	mu     sync.Mutex
	oldest map[string][]byte // the first records that it got, by path
}

// lies are things that relays do that must harm nobody beside an honest one.
var lies = []string{
	"loses",     // says 200 to mail and drops it
	"withholds", // takes mail and gives none
	"forges",    // changes the mail that it gives
	"strips",    // gives it without proofs
	"serves old records",
	"denies records",
	"invents numbers of records",
}

func newLiar(honest http.Handler, dice *rand.Rand) *recordLiar {
	return &recordLiar{Handler: honest, lie: lies[dice.IntN(len(lies))], oldest: make(map[string][]byte)}
}

// ServeHTTP implements http.Handler.
func (l *recordLiar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	leaves, fetches := strings.Contains(r.URL.Path, "/send_relay/"), strings.Contains(r.URL.Path, "/relay_txn/")
	aboutRecord := strings.HasPrefix(r.URL.Path, wire.Unstable+string(wire.Relays)+"/")
	switch {
	case l.lie == "loses" && leaves:
		_, _ = io.WriteString(w, wire.SentAnswer)
	case l.lie == "withholds" && fetches:
		_, _ = io.WriteString(w, wire.EmptyAnswer)
	case l.lie == "invents numbers of records" && leaves:
		_, _ = w.Write(wire.WithRelaysSeq(wire.SentAnswer, wire.MaxInteger))
	case l.lie == "denies records" && aboutRecord:
		wire.Unrecognized().Write(w)
	case l.lie == "serves old records" && aboutRecord:
		l.serveOld(w, r)
	case fetches && (l.lie == "forges" || l.lie == "strips"):
		l.change(w, r)
	default:
		l.Handler.ServeHTTP(w, r)
	}
}

// serveOld takes all records, and gives the first.
func (l *recordLiar) serveOld(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Method == http.MethodPut {
		body, err := io.ReadAll(r.Body)
		if _, known := l.oldest[r.URL.Path]; err == nil && !known {
			l.oldest[r.URL.Path] = body
		}
		_, _ = io.WriteString(w, wire.SentAnswer)
		return
	}
	record, known := l.oldest[r.URL.Path]
	if !known {
		wire.Unrecognized().Write(w)
		return
	}
	_, _ = w.Write(record)
}

// change changes the mail in the relay's answer.
func (l *recordLiar) change(w http.ResponseWriter, r *http.Request) {
	serveChanged(l.Handler, w, r, func(body []byte) []byte {
		return changeMail(body, func(item *wire.Item) {
			if l.lie == "strips" {
				item.Proof = nil
			} else {
				item.Transaction = bytes.ReplaceAll(item.Transaction, []byte(`"depth":`), []byte(`"depth":1`))
			}
		})
	})
}
