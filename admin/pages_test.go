package admin_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/activity"
	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/store/memory"
)

// A visit is the answer to a browser.
type visit struct {
	status int
	header http.Header
	text   string
}

func (r *rig) visit(method, target string, form url.Values, headers ...string) visit {
	r.Helper()
	request := httptest.NewRequestWithContext(r.Context(), method, target, strings.NewReader(form.Encode()))
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	answer := httptest.NewRecorder()
	r.desk.Handler().ServeHTTP(answer, request)
	return visit{answer.Code, answer.Header(), answer.Body.String()}
}

// see requires that a page is shown, is well formed, and has these words in it.
func (r *rig) see(target string, words ...string) string {
	r.Helper()
	page := r.visit("GET", target, nil)
	require.Equal(r, 200, page.status, page.text)
	requirePage(r, page.text)
	for _, word := range words {
		require.Contains(r, page.text, word)
	}
	return page.text
}

// requirePage requires that elements are closed, that each field has a label, each
// form a button, and that there is one heading of the first level.
func requirePage(t require.TestingT, page string) {
	decoder := xml.NewDecoder(strings.NewReader(page))
	decoder.Strict, decoder.Entity = false, xml.HTMLEntity
	decoder.AutoClose = []string{"meta", "link", "input", "br"}
	var open []string
	seen, labels := make(map[string]int), make(map[string]bool)
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		switch e := token.(type) {
		case xml.StartElement:
			open = append(open, e.Name.Local)
			seen[e.Name.Local]++
			attributes := make(map[string]string)
			for _, a := range e.Attr {
				attributes[a.Name.Local] = a.Value
			}
			switch {
			case e.Name.Local == "label":
				labels[attributes["for"]] = true
			case e.Name.Local == "input" && attributes["type"] != "hidden":
				require.True(t, labels[attributes["id"]], "a field without a label before it: %v", e.Attr)
			case e.Name.Local == "meter", e.Name.Local == "svg":
				require.NotEmpty(t, attributes["aria-label"])
			case e.Name.Local == "script", attributes["style"] != "", attributes["onclick"] != "":
				require.Fail(t, "the policy of the page forbids this")
			}
		case xml.EndElement:
			require.NotEmpty(t, open)
			require.Equal(t, open[len(open)-1], e.Name.Local)
			open = open[:len(open)-1]
		}
	}
	require.Empty(t, open)
	require.Equal(t, 1, seen["h1"])
	require.Equal(t, 1, seen["title"])
	require.GreaterOrEqual(t, seen["button"], seen["form"])
}

func TestPages(t *testing.T) {
	r := newRig(t, memory.New(memory.Options{}))
	r.see("/", "All is well", "relay.example", "No mail is waiting")
	r.put("fills.example", "b.example", 150, 3*24*time.Hour)
	r.put("a.example", "c.example", 2, 0)
	r.see("/", "152 entries", "15.2 kB", "fills.example", `href="purge?origin=fills.example"`, `aria-current="page"`)
	r.see("/senders", "fills.example", "15.0 kB")
	r.see("/mailboxes", "b.example", "c.example", `href="mailbox?name=b.example"`)
	only := r.see("/mailboxes?origin=a.example", "c.example", "purge?mailbox=c.example&amp;origin=a.example")
	require.NotContains(t, only, "b.example")
	first := r.see("/mailbox?name=b.example", "150 entries", "fills.example", "in 2 days", "More entries")
	next := first[strings.Index(first, "mailbox?name=b.example&amp;after="):]
	next = strings.ReplaceAll(next[:strings.Index(next, `"`)], "&amp;", "&")
	require.NotContains(t, r.see("/"+next, "Entries, oldest first"), "More entries")
	r.see("/mailbox?name=c.example", "never")
	r.see("/mailbox?name=nobody.example", "0 entries")
	r.see("/blocked", "Nothing is blocked")
	r.see("/blocked?entity=fills.example", `value="fills.example"`)

	style := r.visit("GET", "/style.css", nil)
	require.Equal(t, 200, style.status)
	require.Contains(t, style.header.Get("Content-Type"), "text/css")
}

// The traffic, its refusals and the last fetches are on the pages, in words.
func TestPagesOfActivity(t *testing.T) {
	r := newRig(t, memory.New(memory.Options{}))
	quietly := r.see("/", "Transactions stored in the last hour: none", "3 of 1000", "Refused requests", "<p>None.</p>")
	require.Equal(t, 6, strings.Count(quietly, `<path d=""/>`))
	r.lately.Stored(1500)
	r.lately.Stored(500)
	r.lately.Acknowledged(1)
	for range 2 {
		r.lately.Refused(activity.Refused{
			Endpoint: "send_relay", Reason: "full", Address: "192.0.2.7", Origin: "<b>evil.example", Destination: "b.example",
		})
	}
	r.lately.Refused(activity.Refused{Endpoint: "made_up", Reason: "new_one"})
	r.see("/", "Transactions stored in the last hour: 2 of 2.0 kB, at most 2 in 1 minute", "Transactions fetched in the last day: 1, at most 1 in 15 minutes",
		`<path d="M59 24v-24.0h1v24.0z"/>`, "leave mail", "there is no room", "192.0.2.7 (2)", "&lt;b&gt;evil.example (2)", "b.example (2)", "made up", "new one", "not said")

	r.put("a.example", "b.example", 1, 0)
	r.put("a.example", "c.example", 1, 0)
	r.lately.Asked("b.example")
	r.see("/mailboxes", "less than a minute ago", "not since 20", `href="mailboxes?unfetched=true"`)
	require.NotContains(t, r.see("/mailboxes?unfetched=true", "c.example", "Show all"), "b.example")
	r.see("/mailbox?name=b.example", "It last asked for its mail less than a minute ago.")
	r.see("/mailbox?name=c.example", "hasn't asked for its mail")
	desk, err := admin.New(admin.Config{Store: r.store, Logger: quiet})
	require.NoError(t, err)
	r.desk = desk
	require.NotContains(t, r.see("/"), "Traffic", "it isn't known")
	require.NotContains(t, r.see("/mailboxes", "b.example"), "fetch")
}

// Each reason that the metrics have is said in words.
func TestReasonsInWords(t *testing.T) {
	raw, err := os.ReadFile("../docs/metrics.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(raw), "| reason | status |")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n\n")
	reasons := regexp.MustCompile(`(?m)^\| (\w+) \| (?:\d+|any) \|`).FindAllStringSubmatch(table, -1)
	require.Greater(t, len(reasons), 10)
	for _, reason := range reasons {
		r := newRig(t, memory.New(memory.Options{}))
		r.lately.Refused(activity.Refused{Endpoint: "relay_txn", Reason: reason[1]})
		require.NotContains(t, r.see("/", "fetch mail"), ">"+strings.ReplaceAll(reason[1], "_", " ")+"<")
	}
}

func TestManyMailboxesInPages(t *testing.T) {
	r := newRig(t, memory.New(memory.Options{}))
	for i := range 130 {
		r.put("a.example", spec.ServerName(fmt.Sprintf("%03d.example", i)), 1, 0)
	}
	require.NotContains(t, r.see("/mailboxes", "099.example", `href="mailboxes?after=099.example"`), "100.example")
	require.NotContains(t, r.see("/mailboxes?after=099.example", "129.example"), "More mailboxes")
	r.see("/mailboxes?after=129.example", "no more mailboxes")
}

func TestPurgeByPage(t *testing.T) {
	r := newRig(t, memory.New(memory.Options{}))
	r.put("fills.example", "b.example", 3, 0)
	r.put("a.example", "b.example", 2, 0)
	page := r.see("/purge?origin=fills.example", "fills.example", "3 entries", "Purge for good", `method="post"`)
	require.NotContains(t, page, "were removed")
	require.Len(t, r.left(r.client, "b.example"), 5, "a GET removes nothing")
	done := r.visit("POST", "/purge", url.Values{"origin": {"fills.example"}, "mailbox": {""}, "expires_within_ms": {"0"}}, "Sec-Fetch-Site", "same-origin")
	require.Equal(t, 200, done.status)
	requirePage(t, done.text)
	require.Contains(t, done.text, "3 entries were removed")
	require.NotContains(t, done.text, "<form")
	require.Len(t, r.left(r.client, "b.example"), 2)
	require.NotContains(t, r.see("/purge?origin=fills.example", "0 entries"), "<form", "there is nothing to do")

	// Of more than a step, the page says how to go on.
	r.put("fills.example", "b.example", 9000, 0)
	form, steps := url.Values{"origin": {"fills.example"}}, 0
	for ; len(r.left(r.client, "b.example")) > 2; steps++ {
		done = r.visit("POST", "/purge", form)
		requirePage(t, done.text)
		for _, name := range []string{"from_mailbox", "from_after"} {
			if _, rest, found := strings.Cut(done.text, `name="`+name+`" value="`); found {
				form.Set(name, rest[:strings.Index(rest, `"`)])
			}
		}
	}
	require.Greater(t, steps, 1)
}

func TestBlockByPage(t *testing.T) {
	r := newRig(t, memory.New(memory.Options{}))
	page := r.visit("POST", "/block", url.Values{"entity": {"Evil.example"}, "reason": {"<b>fills</b> the disk"}})
	require.Equal(t, 200, page.status)
	requirePage(t, page.text)
	require.Contains(t, page.text, "evil.example is blocked.")
	require.Contains(t, page.text, "&lt;b&gt;fills", "text of others is no markup")
	r.see("/blocked", "evil.example")
	page = r.visit("POST", "/unblock", url.Values{"entity": {"evil.example"}})
	require.Equal(t, 200, page.status)
	require.NotContains(t, r.see("/blocked"), "evil.example")
}

// Requests that a browser makes for another site change nothing.
func TestOtherSites(t *testing.T) {
	r := newRig(t, memory.New(memory.Options{}))
	r.put("a.example", "b.example", 1, 0)
	form := url.Values{"mailbox": {"b.example"}}
	for _, headers := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
	} {
		for _, path := range []string{"/purge", "/block", "/unblock", "/v1/purge", "/v1/block", "/v1/unblock", "/v1/invite", "/v1/verify"} {
			require.Equal(t, 403, r.visit("POST", path, form, headers...).status, "%s %v", path, headers)
		}
	}
	require.Len(t, r.left(r.client, "b.example"), 1)
	page := r.visit("GET", "/", nil)
	require.Contains(t, page.header.Get("Content-Security-Policy"), "default-src 'none'")
	require.Contains(t, page.header.Get("Content-Security-Policy"), "frame-ancestors 'none'")
	require.Equal(t, "no-store", page.header.Get("Cache-Control"))
}

func TestPagesOfMistakes(t *testing.T) {
	r := newRig(t, memory.New(memory.Options{}))
	for target, status := range map[string]int{"/mailbox": 400, "/purge": 400, "/mailbox?name=a&after=x": 400, "/mailboxes?after=~a": 400} {
		page := r.visit("GET", target, nil)
		require.Equal(t, status, page.status, target)
		requirePage(t, page.text)
		require.Contains(t, page.text, `role="alert"`)
	}
	require.Equal(t, 400, r.visit("POST", "/block", url.Values{"entity": {"not a server"}}).status)
	require.NoError(t, r.store.Close())
	page := r.visit("GET", "/", nil)
	require.Equal(t, 503, page.status)
	require.Contains(t, page.text, "closed")
}

func TestPageOfTrouble(t *testing.T) {
	r := newRig(t, memory.New(memory.Options{}))
	desk, err := admin.New(admin.Config{Store: sick{memory.New(memory.Options{})}, Logger: quiet, MaxEntries: 100, MaxBytes: 1e9})
	require.NoError(t, err)
	r.desk = desk
	r.see("/", "Something is wrong", "the disk", "0 entries of 100", `max="1000000000"`, "1.0 GB", "Relay")
	require.Equal(t, 404, r.visit("GET", "/blocked", nil).status)
}
