package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// A villain is a relay that is run by somebody dishonest. It takes mail that A leaves
// for B as every relay does, proof of origin and all, and keeps it to itself:
// the mail that it hands out is forged.
type villain struct {
	*memory.Store // of forgeries
	server        *relay.Server
	address       string
	web           *http.Server

	mu     sync.Mutex
	forged []forgery
}

// A forgery is a transaction that A never sent like that.
type forgery struct {
	what string
	id   gomatrixserverlib.TransactionID

	body  []byte
	proof []byte // the best one that the villain has
}

// startVillain starts a relay, in this process, and has place say where.
func startVillain(name spec.ServerName, place func(spec.ServerName, string)) (v *villain, err error) {
	v = &villain{Store: memory.New(memory.Options{})}
	if v.server, err = relay.New(relay.Config{ServerName: name, Store: v, Logger: slog.New(slog.DiscardHandler)}); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	v.web = &http.Server{Handler: v.server, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = v.web.Serve(listener) }() // ends with close
	v.address = listener.Addr().String()
	place(name, v.address)
	return v, nil
}

func (v *villain) close() error { return errors.Join(v.web.Close(), v.server.Close(), v.Store.Close()) }

// Put implements store.Store, in its way.
func (v *villain) Put(ctx context.Context, mail store.Mail, limits store.Limits) (stored bool, err error) {
	forged, err := forge(mail)
	if err != nil {
		return false, err
	}
	if len(forged) == 0 {
		return true, nil // it is held back
	}
	for _, f := range forged {
		if mail.Digest, err = digest(f.body); err != nil {
			return false, err
		}
		mail.TransactionID, mail.Body, mail.Proof = f.id, f.body, f.proof
		if _, err := v.Store.Put(ctx, mail, limits); err != nil {
			return false, err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.forged = append(v.forged, forged...)
	return true, nil
}

// forge makes of a transaction the forgeries that are possible without a signature in
// A's name, if there is a word in it that is worth it.
func forge(mail store.Mail) ([]forgery, error) {
	changed := bytes.Replace(mail.Body, []byte("all"), []byte("lies"), 1)
	if bytes.Equal(changed, mail.Body) {
		return nil, nil // there is no word to change
	}
	// Unlike room events, a typing notice has no signature of its own.
	invented, err := json.Marshal(gomatrixserverlib.Transaction{
		Origin: mail.Origin, OriginServerTS: spec.AsTimestamp(time.Now()), PDUs: []json.RawMessage{},
		EDUs: []gomatrixserverlib.EDU{{Type: spec.MTyping, Origin: string(mail.Origin), Content: spec.RawJSON(`{"typing":true}`)}},
	})
	if err != nil {
		return nil, err
	}
	return []forgery{
		{string(mail.TransactionID) + " with one word changed", mail.TransactionID, changed, mail.Proof},
		{"an invented typing notice, with A's proof for another", "forged-1", invented, mail.Proof},
		{"the same without a proof", "forged-2", invented, nil},
	}, nil
}

func digest(body []byte) (store.Digest, error) {
	content, err := wire.ReadContent(body)
	return content.Digest, err
}

// forgeries returns the mail that the villain hands out.
func (v *villain) forgeries() []forgery {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.forged
}
