package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"golang.org/x/time/rate"

	"github.com/matrixrelay/relay/internal/allowance"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// records answer requests for the records of where the mail for servers goes. Servers
// sign them, so anybody may bring one, and nothing depends on where it came from.
type records struct {
	config *Config
	checks *checks
	acting policy.Acting // nil: for everybody
	kept   *keptRecords  // nil: none are kept

	// Where the relay acts for everybody, new records are limited by address.
	begun *allowance.Addresses
}

// One address may bring the first records of so many servers in an hour, and at once,
// where the relay acts for everybody.
const begunPerHour = 16

func newRecords(config *Config, checks *checks) *records {
	r := &records{config: config, checks: checks, begun: allowance.New(policy.DefaultParties, policy.DefaultWide, rate.Every(time.Hour/begunPerHour), begunPerHour)}
	if acting, ok := policy.ActingOf(config.Policy); ok {
		r.acting = acting
	}
	if notes, ok := config.Store.(store.Notes); ok && config.MaxRecords > 0 {
		r.kept = newKeptRecords(notes, config)
	}
	return r
}

func (r *records) areKept() bool { return r.kept != nil }

// serve is the fourth stage of a request for a record, or with one.
func (r *records) serve(ctx context.Context, q *request) (answer, error) {
	if !r.areKept() {
		return answer{}, wire.Unrecognized()
	}
	if q.Method == http.MethodPut {
		return r.put(ctx, q)
	}
	record, err := r.kept.get(ctx, q.route.Server)
	if err != nil {
		return answer{}, err
	}
	if record == nil {
		return answer{}, &wire.Error{
			Status: http.StatusNotFound, Code: spec.ErrorNotFound, Message: "this relay has no record of that server",
		}
	}
	return answer{pieces: [][]byte{record.JSON()}}, nil
}

// put keeps a record, unless it has a newer one. The store has it on the disk by then.
func (r *records) put(ctx context.Context, q *request) (answer, error) {
	record, err := wire.ReadRelayRecord(q.Content)
	if err != nil {
		return answer{}, wire.BadRequest(spec.ErrorBadJSON, err.Error())
	}
	if record.Server != q.route.Server {
		return answer{}, wire.BadRequest(spec.ErrorInvalidParam, "the record is another server's than that in the path")
	}
	for kept := false; !kept; { // unless another comes meanwhile
		held, err := r.kept.get(ctx, record.Server)
		if err != nil {
			return answer{}, err
		}
		if isSame(held, &record) {
			break
		}
		if err := r.mayTake(ctx, q, &record, held); err != nil {
			return answer{}, err
		}
		if q.admission.used.Stored, kept, err = r.kept.replace(ctx, held, &record); err != nil {
			return answer{}, err
		}
	}
	return answer{pieces: [][]byte{[]byte(wire.SentAnswer)}}, nil
}

// mayTake refuses a record that doesn't take the place of held, which may be nil. It may
// look keys up, at servers that take long, so it holds up no other record.
func (r *records) mayTake(ctx context.Context, q *request, record, held *wire.RelayRecord) error {
	if held == nil {
		if err := r.mayBegin(ctx, record); err != nil {
			return err
		}
	}
	if err := r.compare(ctx, q, record, held); err != nil || held != nil || r.acting != nil {
		return err
	}
	return r.begin(q.admission.asked.Address)
}

// begin counts the first record of a server for the address that brings it.
func (r *records) begin(from netip.Addr) error {
	if wait, ok := r.begun.Take(from, 0); !ok {
		return wire.LimitExceeded("this address has brought records of too many servers", wholeSeconds(wait))
	}
	return nil
}

// mayBegin refuses a record of a server that has nothing to do with this relay.
func (r *records) mayBegin(ctx context.Context, record *wire.RelayRecord) error {
	var acts bool
	if r.acting != nil {
		var err error
		if acts, err = r.acting.Acts(ctx, record.Server); err != nil {
			return fmt.Errorf("relay: Config.Policy: %w", err)
		}
	} else {
		for _, relay := range record.Relays {
			acts = acts || r.config.isLocal(relay.Name)
		}
	}
	if !acts {
		return wire.Forbidden("this relay does not act for " + string(record.Server))
	}
	return nil
}

// compare checks the signature of a record, and refuses it if the one that is held is
// newer.
func (r *records) compare(ctx context.Context, q *request, record, held *wire.RelayRecord) error {
	replaces := held == nil
	err := r.checks.ofObject(ctx, q, "the record", func(ctx context.Context) error {
		err := record.Check(ctx, r.config.Keys, time.Now())
		if err == nil && held != nil {
			replaces, err = record.Replaces(ctx, held, r.config.Keys, time.Now())
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case !replaces:
		return &wire.Error{
			Status: http.StatusConflict, Code: spec.ErrorUnknown, Message: "this relay has a newer record of that server",
			Fields: map[string]any{"record": json.RawMessage(held.JSON())},
		}
	}
	return nil
}

// tell puts the number of the destination's record into the answer to a sender. That it
// can't be read doesn't matter to the mail.
func (r *records) tell(ctx context.Context, destination spec.ServerName, sent string) []byte {
	if r.areKept() {
		if seq := r.kept.seq(ctx, destination); seq > 0 {
			return wire.WithRelaysSeq(sent, seq)
		}
	}
	return []byte(sent)
}
