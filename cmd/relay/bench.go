package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/spf13/cobra"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/wire"
)

const benchHelp = `Load a relay with mail of servers that are made up, fetch it again, and print how fast
both went. Use it on a relay of your own: it fills the shares of your address, so start
that relay with --mode any --max-requests none --max-traffic none --max-stored none, or
see its refusals.

  relay bench --relay relay --at relay=127.0.0.1:9001`

// maxBench bounds the servers, and the transactions of each, that are made up.
const maxBench = 100_000

// benching has the options of relay bench.
type benching struct {
	toRelay
	senders, destinations, each, pdus int
}

func newBench() *cobra.Command {
	var b benching
	c := &cobra.Command{Use: "bench", Short: "Measure a relay under load", Long: benchHelp, GroupID: groupNode, Args: noArgs, RunE: b.run}
	f := c.Flags()
	f.SortFlags = false
	b.flags(f)
	f.IntVar(&b.senders, "senders", 16, "this `NUMBER` of servers send, each one transaction at a time")
	f.IntVar(&b.destinations, "destinations", 16, "to this `NUMBER` of destinations")
	f.IntVar(&b.each, "each", 100, "this `NUMBER` of transactions each")
	f.IntVar(&b.pdus, "pdus", 5, "with this `NUMBER` of events of 1.5 KB in each")
	return c
}

func (b *benching) check() error {
	for _, n := range []int{b.senders, b.destinations, b.each} {
		if n < 1 || n > maxBench {
			return fmt.Errorf("--senders, --destinations and --each must be at least 1, and at most %d", maxBench)
		}
	}
	if b.pdus < 0 || b.pdus > wire.MaxPDUs {
		return fmt.Errorf("--pdus must be at least 0, and at most %d", wire.MaxPDUs)
	}
	return b.toRelay.check()
}

func (b *benching) run(c *cobra.Command, _ []string) error {
	if err := b.check(); err != nil {
		return usageError{err}
	}
	r, hangUp := b.roads()
	defer hangUp()
	r.plain.MaxIdleConnsPerHost = max(b.senders, b.destinations)
	senders, err := b.crew(r, b.senders)
	if err != nil {
		return err
	}
	receivers, err := b.crew(r, b.destinations)
	if err != nil {
		return err
	}
	if _, err := senders[0].Info(c.Context(), spec.ServerName(b.relay)); err != nil && errors.As(failure(err), new(unreachable)) {
		return failure(err) // nothing would come of it
	}
	put := measure(senders, func(i int, s *benchNode, m *measured) { b.send(c.Context(), i, s, receivers, m) })
	fetch := measure(receivers, func(_ int, r *benchNode, m *measured) { b.fetch(c.Context(), r, m) })
	if err := c.Context().Err(); err != nil {
		return err
	}
	return show(c, "PUT    "+put.String()+"\nfetch  "+fetch.String(), map[string]any{"put": put, "fetch": fetch})
}

// A benchNode is a server that is made up.
type benchNode struct {
	*client.Caller
	name spec.ServerName
}

func (b *benching) crew(r *roads, size int) ([]*benchNode, error) {
	crew := make([]*benchNode, size)
	for i := range crew {
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, err
		}
		id := fclient.SigningIdentity{ServerName: keyName(public), KeyID: "ed25519:bench", PrivateKey: private}
		caller, err := client.NewCaller(client.CallerConfig{Identity: id, Transport: r, Timeout: b.timeout})
		if err != nil {
			return nil, err
		}
		crew[i] = &benchNode{caller, id.ServerName}
	}
	return crew, nil
}

// send sends all transactions of one sender.
func (b *benching) send(ctx context.Context, sender int, s *benchNode, to []*benchNode, m *measured) {
	for i := range b.each {
		t := gomatrixserverlib.Transaction{
			TransactionID: gomatrixserverlib.TransactionID(fmt.Sprint(i)), Origin: s.name, Destination: to[(sender+i)%len(to)].name,
			OriginServerTS: spec.AsTimestamp(time.Now()), PDUs: []json.RawMessage{},
		}
		for range b.pdus {
			t.PDUs = append(t.PDUs, encryptedPDU(s.name))
		}
		sent, err := client.NewTransaction(t)
		if err == nil {
			begun := time.Now()
			err = s.Send(ctx, spec.ServerName(b.relay), sent)
			m.note(time.Since(begun), 1, len(sent.Body), err)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// fetch empties one mailbox.
func (b *benching) fetch(ctx context.Context, r *benchNode, m *measured) {
	for last := int64(0); ; {
		begun := time.Now()
		answer, err := r.Ask(ctx, spec.ServerName(b.relay), last, wire.Query{Limit: 100})
		if err != nil || !answer.EntriesQueued || answer.EntryID <= last {
			m.note(time.Since(begun), 0, 0, err)
			return
		}
		bytes := 0
		all := append([]wire.Answer{answer}, answer.More...)
		for _, one := range all {
			bytes += len(one.Transaction)
			last = one.EntryID
		}
		m.note(time.Since(begun), len(all), bytes, nil)
	}
}

// A measured has the results of one kind of request.
type measured struct {
	Transactions int64            `json:"transactions"`
	Bytes        int64            `json:"bytes"`
	Seconds      float64          `json:"seconds"`
	PerSecond    float64          `json:"per_second"`
	MedianMS     float64          `json:"median_ms"` // of a request
	P99MS        float64          `json:"p99_ms"`
	MaxMS        float64          `json:"max_ms"`
	Failures     map[string]int64 `json:"failures"` // by the answer

	mu    sync.Mutex
	times []time.Duration
}

// measure has all nodes work at once.
func measure(nodes []*benchNode, work func(int, *benchNode, *measured)) *measured {
	m := &measured{Failures: make(map[string]int64)}
	begun := time.Now()
	var all sync.WaitGroup
	for i, node := range nodes {
		all.Go(func() { work(i, node, m) })
	}
	all.Wait()
	m.Seconds = time.Since(begun).Seconds()
	m.PerSecond = float64(m.Transactions) / m.Seconds
	slices.Sort(m.times)
	m.MedianMS, m.P99MS, m.MaxMS = m.quantile(0.5), m.quantile(0.99), m.quantile(1)
	return m
}

func (m *measured) note(took time.Duration, transactions, bytes int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.times = append(m.times, took)
	if err != nil {
		m.Failures[kindOf(err)]++
		return
	}
	m.Transactions += int64(transactions)
	m.Bytes += int64(bytes)
}

// kindOf is an error without the parts that differ from one to the next.
func kindOf(err error) string {
	if answer := new(wire.Error); errors.As(err, &answer) {
		return fmt.Sprintf("%d %s", answer.Status, answer.Code)
	}
	return "no answer"
}

func (m *measured) quantile(q float64) float64 {
	if len(m.times) == 0 {
		return 0
	}
	return float64(m.times[int(q*float64(len(m.times)-1))].Microseconds()) / 1000
}

// String is a line for people.
func (m *measured) String() string {
	var failed strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(m.Failures)) {
		fmt.Fprintf(&failed, ", %d times %s", m.Failures[kind], kind)
	}
	return fmt.Sprintf("%d transactions (%.1f MB) in %.2f s: %.0f a second; a request took %.1f ms (median), %.1f ms (99 %%), %.1f ms (at most)%s",
		m.Transactions, float64(m.Bytes)/1e6, m.Seconds, m.PerSecond, m.MedianMS, m.P99MS, m.MaxMS, &failed)
}
