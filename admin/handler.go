package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// The paths of the interface. GET reads, POST changes or does a step of long work.
const (
	pathStatus    = "/v1/status"
	pathMailboxes = "/v1/mailboxes" // after, limit, origin, unfetched, private
	pathMailbox   = "/v1/mailbox"   // name
	pathEntries   = "/v1/entries"   // mailbox, after, limit, bodies
	pathFacts     = "/v1/facts"     // server
	pathForget    = "/v1/forget"
	pathSenders   = "/v1/senders" // mailbox, limit
	pathPurge     = "/v1/purge"
	pathVerify    = "/v1/verify"
	pathBlocked   = "/v1/blocked" // after, limit
	pathBlock     = "/v1/block"
	pathUnblock   = "/v1/unblock"
	pathInvite    = "/v1/invite"
	pathBackup    = "/v1/backup" // the answer is the copy
	pathBackedUp  = "/v1/backed-up"
)

// maxRequest bounds the body of a request.
const maxRequest = 64 << 10

// Bodies of requests, and answers that aren't types of their own.
type (
	unblockRequest struct {
		Entity string `json:"entity"`
	}
	unblockAnswer struct {
		Found bool `json:"found"`
	}
	forgetRequest struct {
		Server spec.ServerName `json:"server"`
	}
	inviteRequest struct {
		Uses  int       `json:"uses"`
		Until time.Time `json:"until"`
	}
	inviteAnswer struct {
		Invite string `json:"invite"`
	}
	backedUp struct {
		Began time.Time `json:"began"`
	}
)

// Handler serves a Desk as JSON, with Matrix error bodies, on paths that begin with /v1/,
// and pages for a browser on others. Mounted on a prefix, which ends with a slash, it
// needs http.StripPrefix without that slash. It refuses requests that change something
// and that a browser makes for another site.
func (d *Desk) Handler() http.Handler {
	mux := http.NewServeMux()
	get := func(path string, call func(ctx context.Context, p *params) (any, error)) {
		mux.Handle("GET "+path, d.answering(func(r *http.Request) (any, error) {
			p := &params{values: r.URL.Query()}
			return p.or(func() (any, error) { return call(r.Context(), p) })
		}))
	}
	get(pathStatus, func(ctx context.Context, _ *params) (any, error) { return d.Status(ctx) })
	get(pathMailboxes, func(ctx context.Context, p *params) (any, error) {
		q := MailboxQuery{After: p.name("after"), Limit: int(p.number("limit")), Origin: p.name("origin"), Unfetched: p.flag("unfetched"), Private: p.flag("private")}
		return p.or(func() (any, error) { return d.Mailboxes(ctx, q) })
	})
	get(pathMailbox, func(ctx context.Context, p *params) (any, error) { return d.Mailbox(ctx, p.name("name")) })
	get(pathEntries, func(ctx context.Context, p *params) (any, error) {
		q := EntryQuery{Mailbox: p.name("mailbox"), After: p.number("after"), Limit: int(p.number("limit")), Bodies: p.flag("bodies")}
		return p.or(func() (any, error) { return d.Entries(ctx, q) })
	})
	get(pathFacts, func(ctx context.Context, p *params) (any, error) {
		server := p.name("server")
		return p.or(func() (any, error) { return d.Facts(ctx, server) })
	})
	get(pathSenders, func(ctx context.Context, p *params) (any, error) {
		mailbox, limit := p.name("mailbox"), int(p.number("limit"))
		return p.or(func() (any, error) { return d.Senders(ctx, mailbox, limit) })
	})
	get(pathBlocked, func(ctx context.Context, p *params) (any, error) {
		after, limit := string(p.name("after")), int(p.number("limit"))
		return p.or(func() (any, error) { return d.Blocked(ctx, after, limit) })
	})
	post(d, mux, pathPurge, func(ctx context.Context, p Purge) (any, error) { return d.Purge(ctx, p) })
	post(d, mux, pathForget, func(ctx context.Context, r forgetRequest) (any, error) { return r, d.Forget(ctx, r.Server) })
	post(d, mux, pathVerify, func(ctx context.Context, from Position) (any, error) { return d.Verify(ctx, from) })
	post(d, mux, pathBlock, func(ctx context.Context, b policy.Block) (any, error) { return d.Block(ctx, b) })
	post(d, mux, pathUnblock, func(ctx context.Context, r unblockRequest) (any, error) {
		found, err := d.Unblock(ctx, r.Entity)
		return unblockAnswer{found}, err
	})
	post(d, mux, pathInvite, func(ctx context.Context, r inviteRequest) (any, error) {
		text, err := d.Invite(ctx, r.Uses, r.Until)
		return inviteAnswer{text}, err
	})
	post(d, mux, pathBackedUp, func(ctx context.Context, b backedUp) (any, error) { return b, d.BackedUp(ctx, b.Began) })
	mux.HandleFunc("POST "+pathBackup, d.sendBackup)
	d.mountPages(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { wire.Unrecognized().Write(w) })
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		wire.Forbidden("a browser made this request for another site").Write(w)
	}))
	return secureHeaders(guard.Handler(mux))
}

// post serves a call whose argument is the body. A field that isn't known is refused: a
// purge with a misspelt filter would remove more than it should.
func post[T any](d *Desk, mux *http.ServeMux, path string, call func(context.Context, T) (any, error)) {
	mux.Handle("POST "+path, d.answering(func(r *http.Request) (any, error) {
		var body T
		decoder := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxRequest))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&body); err != nil {
			return nil, wire.BadRequest(spec.ErrorBadJSON, "the body isn't the JSON that this takes: "+err.Error())
		}
		return call(r.Context(), body)
	}))
}

// answering writes the result of a call.
func (d *Desk) answering(call func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := call(r)
		var body []byte
		if err == nil {
			body, err = json.Marshal(answer)
		}
		if err != nil {
			d.errorOf(r, err).Write(w)
			return
		}
		wire.NoStore(w.Header())
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // the caller has gone, if not
	})
}

// errorOf is the answer to an error. An operator is told all of it.
func (d *Desk) errorOf(r *http.Request, err error) *wire.Error {
	if answer := (*wire.Error)(nil); errors.As(err, &answer) {
		return answer
	}
	status := http.StatusInternalServerError
	if errors.Is(err, store.ErrReopen) || errors.Is(err, store.ErrClosed) {
		status = http.StatusServiceUnavailable
	}
	if r.Context().Err() == nil {
		d.config.Logger.Log(r.Context(), slog.LevelError, "admin: a call failed", "path", r.URL.Path, "error", err)
	}
	return &wire.Error{Status: status, Code: spec.ErrorUnknown, Message: err.Error()}
}

// params reads the query of a request. The first mistake stays.
type params struct {
	values url.Values
	err    error
}

// or makes a call if there was no mistake.
func (p *params) or(call func() (any, error)) (any, error) {
	if p.err != nil {
		return nil, p.err
	}
	return call()
}

func (p *params) name(key string) spec.ServerName {
	value := p.values.Get(key)
	if len(value) > store.MaxName {
		p.fail(key, "it is too long")
	}
	return spec.ServerName(value)
}

func (p *params) number(key string) int64 {
	text := p.values.Get(key)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > store.MaxID {
		p.fail(key, "it is not a number that can be")
	}
	return n
}

func (p *params) flag(key string) bool {
	switch text := p.values.Get(key); text {
	case "", "false":
		return false
	case "true":
		return true
	default:
		p.fail(key, "it is neither true nor false")
		return false
	}
}

func (p *params) fail(key, why string) {
	if p.err == nil {
		p.err = wire.BadRequest(spec.ErrorInvalidParam, fmt.Sprintf("%s: %s", key, why))
	}
}
