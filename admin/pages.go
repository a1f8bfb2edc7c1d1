package admin

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/activity"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

//go:embed page
var pageFiles embed.FS

// The pages for a browser, which work without JavaScript. All of them are in one folder,
// and their links are relative, so that they can be mounted on any prefix.
var pageTemplates = func() map[string]*template.Template {
	templates := make(map[string]*template.Template)
	for _, name := range []string{"status", "mailboxes", "mailbox", "senders", "purge", "blocked", "error"} {
		page := template.New("layout.html").Funcs(template.FuncMap{
			"bytes": sizeText, "span": spanText, "day": dayText, "ago": agoText, "part": tenths, "millis": millisText,
			"endpoint": endpointText, "reason": reasonText, "counts": countsText,
		})
		templates[name] = template.Must(page.ParseFS(pageFiles, "page/layout.html", "page/"+name+".html"))
	}
	return templates
}()

// A view is the data of a template.
type view struct {
	Server  string
	Links   []pageLink
	Content any
}

type pageLink struct {
	Path, Name string
	Here       bool
}

var pageLinks = []pageLink{{"./", "Status", false}, {"mailboxes", "Mailboxes", false}, {"senders", "Senders", false}, {"blocked", "Blocked", false}}

// mountPages adds the pages to the interface.
func (d *Desk) mountPages(mux *http.ServeMux) {
	get := func(path, template string, content func(ctx context.Context, p *params) (any, error)) {
		mux.HandleFunc("GET /"+path, func(w http.ResponseWriter, r *http.Request) {
			p := &params{values: r.URL.Query()}
			d.show(w, r, template, func() (any, error) { return content(r.Context(), p) })
		})
	}
	post := func(path, template string, content func(ctx context.Context, p *params) (any, error)) {
		mux.HandleFunc("POST /"+path, func(w http.ResponseWriter, r *http.Request) {
			d.show(w, r, template, func() (any, error) {
				r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
				if err := r.ParseForm(); err != nil {
					return nil, wire.BadRequest(spec.ErrorInvalidParam, "the form can't be read: "+err.Error())
				}
				return content(r.Context(), &params{values: r.PostForm})
			})
		})
	}
	get("{$}", "status", d.statusPage)
	get("mailboxes", "mailboxes", d.mailboxesPage)
	get("mailbox", "mailbox", d.mailboxPage)
	get("senders", "senders", func(ctx context.Context, _ *params) (any, error) { return d.Senders(ctx, "", DefaultPage) })
	get("purge", "purge", func(ctx context.Context, p *params) (any, error) { return d.purgePage(ctx, p, true) })
	post("purge", "purge", func(ctx context.Context, p *params) (any, error) { return d.purgePage(ctx, p, false) })
	get("blocked", "blocked", func(_ context.Context, p *params) (any, error) { return d.blockedPage(p, "") })
	post("block", "blocked", func(ctx context.Context, p *params) (any, error) {
		block, err := d.Block(ctx, policy.Block{Entity: p.values.Get("entity"), Reason: p.values.Get("reason")})
		if err != nil {
			return nil, err
		}
		return d.blockedPage(&params{}, block.Entity+" is blocked.")
	})
	post("unblock", "blocked", func(ctx context.Context, p *params) (any, error) {
		entity := p.values.Get("entity")
		if _, err := d.Unblock(ctx, entity); err != nil {
			return nil, err
		}
		return d.blockedPage(&params{}, entity+" is not blocked any more.")
	})
	mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFileFS(w, r, pageFiles, "page/style.css")
	})
}

// show writes a page, or that of the error.
func (d *Desk) show(w http.ResponseWriter, r *http.Request, name string, content func() (any, error)) {
	status := http.StatusOK
	made, err := content()
	if err != nil {
		answer := d.errorOf(r, err)
		name, made, status = "error", answer.Message, answer.Status
	}
	v := view{Server: cmp.Or(string(d.config.ServerName), "Relay"), Content: made}
	for _, link := range pageLinks {
		link.Here = r.URL.Path == "/"+link.Path || link.Path == "./" && r.URL.Path == "/"
		v.Links = append(v.Links, link)
	}
	var page bytes.Buffer
	if err := pageTemplates[name].Execute(&page, v); err != nil {
		d.errorOf(r, fmt.Errorf("admin: the page: %w", err)).Write(w)
		return
	}
	h := w.Header()
	wire.NoStore(h)
	h.Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(page.Bytes()) // the caller has gone, if not
}

// secureHeaders keeps pages out of frames of others, and everything of others out of
// them.
func secureHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// topSenders is how many are on the page of the status and of a mailbox.
const topSenders = 10

func (d *Desk) statusPage(ctx context.Context, _ *params) (any, error) {
	status, err := d.Status(ctx)
	if err != nil {
		return nil, err
	}
	senders, err := d.Senders(ctx, "", topSenders)
	page := struct {
		Status  *Status
		Senders []Sender
		Plots   []plot
		Commits *activity.Counts // of the last hour, nil if the store doesn't tell of them
	}{Status: status, Senders: senders}
	if lately := status.Activity; lately != nil {
		page.Plots = plotsOf(lately)
		if _, ok := d.config.Store.(store.Committing); ok {
			hour := lately.Hour.Sum()
			page.Commits = &hour
		}
	}
	return page, err
}

func (d *Desk) mailboxesPage(ctx context.Context, p *params) (any, error) {
	q := MailboxQuery{After: p.name("after"), Origin: p.name("origin"), Unfetched: p.flag("unfetched")}
	mailboxes, err := d.Mailboxes(ctx, q)
	var next spec.ServerName
	if len(mailboxes) == DefaultPage {
		next = mailboxes[DefaultPage-1].Name
	}
	return struct {
		Query     MailboxQuery
		Mailboxes []Mailbox
		Next      spec.ServerName
		Dated     bool // it is known when they were fetched
	}{q, mailboxes, next, d.config.Activity != nil}, errors.Join(p.err, err)
}

func (d *Desk) mailboxPage(ctx context.Context, p *params) (any, error) {
	q := EntryQuery{Mailbox: p.name("name"), After: p.number("after")}
	if p.err != nil {
		return nil, p.err
	}
	mailbox, err := d.Mailbox(ctx, q.Mailbox)
	if err != nil {
		return nil, err
	}
	senders, err := d.Senders(ctx, q.Mailbox, topSenders)
	if err != nil {
		return nil, err
	}
	entries, err := d.Entries(ctx, q)
	next := int64(0)
	if len(entries) == DefaultPage {
		next = entries[DefaultPage-1].ID
	}
	return struct {
		Mailbox *Mailbox
		Senders []Sender
		Entries []Entry
		Next    int64
	}{mailbox, senders, entries, next}, err
}

// purgePage asks, or does a step.
func (d *Desk) purgePage(ctx context.Context, p *params, asking bool) (any, error) {
	purge := Purge{
		Mailbox: p.name("mailbox"), Origin: p.name("origin"), ExpiresMS: p.number("expires_within_ms"), DryRun: asking,
		From: Position{Mailbox: p.name("from_mailbox"), After: p.number("from_after")},
	}
	if p.err != nil {
		return nil, p.err
	}
	step, err := d.Purge(ctx, purge)
	if err != nil {
		return nil, err
	}
	return struct {
		Purge          Purge
		Asking         bool
		Entries, Bytes int64
		More           *Position
	}{purge, asking, step.Entries, step.Bytes, step.Next}, nil
}

func (d *Desk) blockedPage(p *params, done string) (any, error) {
	after := string(p.name("after"))
	blocks, err := d.Blocked(context.Background(), after, DefaultPage)
	next := ""
	if len(blocks) == DefaultPage {
		next = blocks[DefaultPage-1].Entity
	}
	return struct {
		Blocks             []policy.Block
		Entity, Next, Done string
	}{blocks, p.values.Get("entity"), next, done}, errors.Join(p.err, err)
}

// sizeText writes a number of bytes for people.
func sizeText(n int64) string {
	units := []string{"bytes", "kB", "MB", "GB", "TB", "PB"}
	value, unit := float64(n), 0
	for value >= 1000 && unit < len(units)-1 {
		value, unit = value/1000, unit+1
	}
	if unit == 0 {
		return fmt.Sprint(n, " bytes")
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}

// spanText writes milliseconds for people.
func spanText(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	for _, one := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int64(d / one.unit); n > 1 {
			return fmt.Sprintf("%d %ss", n, one.name)
		} else if n == 1 {
			return "1 " + one.name
		}
	}
	return "less than a minute"
}

func dayText(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// tenths is a part of a number, for the mark above which a meter is high.
func tenths(n int64, of int64) int64 { return n / 10 * of }
