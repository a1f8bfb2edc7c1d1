package admin_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/activity"
	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// sticksOut lists elements that go beyond the screen.
const sticksOut = `[...document.querySelectorAll("body *")].filter(e => !e.closest(".quiet, thead") && e.getBoundingClientRect().right > innerWidth + 1)
	.map(e => e.outerHTML.slice(0, 200)).concat(document.documentElement.scrollWidth > innerWidth ? ["the page"] : [])`

// pale lists texts with less contrast than WCAG 2 demands (AA).
const pale = `(() => {
	const light = css => {
		const c = css.match(/[\d.]+/g).slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
		return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2];
	};
	const under = e => {
		for (; e; e = e.parentElement) {
			const b = getComputedStyle(e).backgroundColor;
			if (b !== "rgba(0, 0, 0, 0)") return b;
		}
		return "rgb(255, 255, 255)";
	};
	return [...document.querySelectorAll("body *")].filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).filter(e => {
		const [a, b] = [light(getComputedStyle(e).color), light(under(e))].sort((x, y) => y - x);
		return (a + 0.05) / (b + 0.05) < 4.5;
	}).map(e => e.outerHTML.slice(0, 200));
})()`

// small lists links and buttons that a finger misses: WCAG 2.2 asks for 24 pixels.
const small = `[...document.querySelectorAll("button, input:not([type=hidden]), nav a, .actions a")].filter(e => {
	const b = e.getBoundingClientRect();
	return b.height < 24 || b.width < 24;
}).map(e => e.outerHTML.slice(0, 200))`

// readable requires that a page fits the screen and can be read, by eye and by a program
// that reads it out.
func (c *chromium) readable() {
	c.Helper()
	for _, scheme := range []string{"dark", "light"} {
		c.prefer(scheme)
		var dark bool
		c.ask(`getComputedStyle(document.body).backgroundColor !== "rgb(255, 255, 255)"`, &dark)
		require.Equal(c, scheme == "dark", dark, "the style sheet isn't in use")
		for _, list := range []string{sticksOut, pale, small} {
			var wrong []string
			c.ask(list, &wrong)
			require.Empty(c, wrong)
		}
	}
	var tree struct {
		Nodes []struct {
			Ignored    bool
			Role, Name struct{ Value any }
		}
	}
	c.do("Accessibility.getFullAXTree", nil, &tree)
	roles := make(map[string]int)
	for _, node := range tree.Nodes {
		role, _ := node.Role.Value.(string)
		if node.Ignored {
			continue
		}
		roles[role]++
		switch role {
		case "link", "button", "textbox", "meter", "image", "heading", "navigation", "columnheader", "rowheader":
			name, _ := node.Name.Value.(string)
			require.NotEmpty(c, strings.TrimSpace(name), "a %s has no name", role)
		}
	}
	require.Equal(c, 1, roles["main"])
	require.Equal(c, 1, roles["navigation"])
	require.Positive(c, roles["heading"])
}

func TestInBrowser(t *testing.T) {
	c := startChromium(t)
	for _, width := range []int{360, 1280} {
		r := newRig(t, memory.New(memory.Options{}))
		desk, err := admin.New(admin.Config{
			Store: measured{r.store.(*memory.Store)}, ServerName: "relay.example", Blocklist: r.blocklist, MaxEntries: 500, MaxBytes: 1e5,
			Activity: busy{r.lately}, Logger: quiet,
		})
		require.NoError(t, err)
		server := httptest.NewServer(http.StripPrefix("/operator", desk.Handler()))
		long := r.keys(2)
		r.put("fills.example", "b.example", 120, 3*24*time.Hour)
		r.put(long[0], long[1], 3, 0)
		r.put(long[0], "c.example", 1, 0)
		r.lately.Asked("b.example")
		c.screen(width)
		c.walk(r, server.URL+"/operator/")
		server.Close()
	}
}

// walk opens each page and does each action.
func (c *chromium) walk(r *rig, url string) {
	c.Helper()
	c.open(url)
	require.Contains(c, c.text(), "All is well.")
	require.Contains(c, c.text(), "of 2.1 ms on average")
	var tall []float64 // how tall each plot is drawn
	c.ask(`[...document.querySelectorAll("svg path")].map(e => e.getBoundingClientRect().height)`, &tall)
	require.Len(c, tall, 6)
	for _, height := range tall {
		require.Greater(c, height, 20.0)
	}
	c.readable()
	c.picture()
	for _, page := range []string{"Senders", "Blocked", "Mailboxes"} {
		c.click(page)
		require.Contains(c, c.text(), page)
		c.readable()
	}
	require.Contains(c, c.text(), "less than a minute ago")
	c.click("Only those whose server hasn't asked for its mail")
	require.NotContains(c, c.text(), "b.example")
	c.readable()
	c.click("Show all")
	c.click("b.example")
	require.Contains(c, c.text(), "120 entries wait for this server")
	c.readable()
	c.click("More entries")
	require.NotContains(c, c.text(), "More entries")
	c.click("Purge the mailbox")
	require.Contains(c, c.text(), "These are 120 entries")
	c.readable()
	require.EqualValues(c, 120, r.entries("b.example"))
	c.click("Purge for good")
	require.Contains(c, c.text(), "120 entries were removed")
	c.readable()
	require.Zero(c, r.entries("b.example"))

	c.click("Blocked")
	c.ask(`document.getElementById("entity").value = "evil.example"; document.getElementById("reason").value = "fills the disk"`, nil)
	c.click("Block")
	require.Contains(c, c.text(), "evil.example is blocked.")
	require.Len(c, r.blocklist.Blocked("", 10), 1)
	c.readable()
	c.click("Unblock evil.example")
	require.Empty(c, r.blocklist.Blocked("", 10))
	require.Contains(c, c.text(), "Nothing is blocked.")
	c.open(url + "mailbox")
	require.Contains(c, c.text(), "a mailbox must be named")
	c.readable()
	c.click("Back to the status")
	require.Contains(c, c.text(), "All is well.")
}

// A measured store tells sizes, as one on a disk does.
type measured struct{ *memory.Store }

func (measured) Sizes(context.Context) (store.Sizes, error) {
	return store.Sizes{Copies: 12_480, File: 84_000_000, Log: 4_200_000}, nil
}

func (measured) OnCommit(func(store.Commit)) (stop func()) { return func() {} }

// A busy relay has had traffic for a day, the same each time.
type busy struct{ *activity.Log }

func (b busy) Report() *activity.Report {
	report := b.Log.Report()
	fill := func(parts []activity.Counts, scale float64) {
		for i := range parts {
			wave := scale * (1.4 + math.Sin(float64(i)/9) + math.Sin(float64(i*i))/4)
			parts[i] = activity.Counts{
				Stored: int64(wave * 60), StoredBytes: int64(wave * 60 * 7500), Acknowledged: int64(wave * 57),
				Commits: int64(wave * 30), CommitUS: int64(wave*30) * 2100, LongestCommitUS: 18_400,
			}
			if i%20 > 16 {
				parts[i].Refused = int64(scale * float64(i%20))
			}
		}
	}
	fill(report.Hour.Parts, 1)
	fill(report.Day.Parts, 15)
	report.RefusalsSince = report.RefusalsSince.Add(-time.Hour)
	report.Refusals = []activity.Refusal{
		{Endpoint: "send_relay", Reason: "full", Times: 212, Addresses: []activity.Count{{Name: "192.0.2.7", Times: 212}},
			Origins: []activity.Count{{Name: "fills.example", Times: 212}}, Destinations: []activity.Count{{Name: "b.example", Times: 212}}},
		{Endpoint: "relay_txn", Reason: "rate", Times: 41, Addresses: []activity.Count{{Name: "2001:db8:7::/64", Times: 41}},
			Origins: []activity.Count{{Name: strings.Repeat("0a1b2c3d", 8), Times: 41}}, Destinations: []activity.Count{{Name: strings.Repeat("0a1b2c3d", 8), Times: 41}}},
	}
	return report
}

// picture writes the page into the file that RELAY_ADMIN_PICTURE names, as the README
// has it, and beside it the sum of the page's parts: see TestPicture.
func (c *chromium) picture() {
	c.Helper()
	path := os.Getenv("RELAY_ADMIN_PICTURE")
	if path == "" {
		return
	}
	var shot struct{ Data string }
	c.do("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true, "clip": map[string]any{
		"x": 0, "y": 0, "width": 1280, "height": 1235, "scale": 0.75,
	}}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	require.NoError(c, err)
	require.NoError(c, os.WriteFile(path, png, 0o644))
	require.NoError(c, os.WriteFile(path+".sum", []byte(partsOfPicture(c)), 0o644))
}

// partsOfPicture is the sum of all files that the page in the picture is made of.
func partsOfPicture(t testing.TB) string {
	sum := sha256.New()
	for _, name := range []string{"page/layout.html", "page/status.html", "page/style.css", "plots.go", "words.go"} {
		raw, err := os.ReadFile(name)
		require.NoError(t, err)
		sum.Write(raw)
	}
	return hex.EncodeToString(sum.Sum(nil)) + "\n"
}

// The picture in the README shows the page as it is now.
func TestPicture(t *testing.T) {
	want, err := os.ReadFile("../docs/status.png.sum")
	require.NoError(t, err)
	require.Equal(t, string(want), partsOfPicture(t), "the page has changed: RELAY_ADMIN_PICTURE=$PWD/docs/status.png go test ./admin -run TestInBrowser")
	png, err := os.ReadFile("../docs/status.png")
	require.NoError(t, err)
	require.Equal(t, "image/png", http.DetectContentType(png))
	require.Less(t, len(png), 150_000)
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	require.Contains(t, string(readme), "(docs/status.png)")
}
