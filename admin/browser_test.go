package admin_test

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/admin"
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
		case "link", "button", "textbox", "meter", "heading", "navigation", "columnheader", "rowheader":
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
		desk, err := admin.New(admin.Config{Store: r.store, ServerName: "relay.example", Blocklist: r.blocklist, MaxEntries: 500, MaxBytes: 1e5, Logger: quiet})
		require.NoError(t, err)
		server := httptest.NewServer(http.StripPrefix("/operator", desk.Handler()))
		long := r.keys(2)
		r.put("fills.example", "b.example", 120, 3*24*time.Hour)
		r.put(long[0], long[1], 3, 0)
		r.put(long[0], "c.example", 1, 0)
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
	c.readable()
	c.picture()
	for _, page := range []string{"Senders", "Blocked", "Mailboxes"} {
		c.click(page)
		require.Contains(c, c.text(), page)
		c.readable()
	}
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
	c.ask(`document.getElementById("what").value = "evil.example"; document.getElementById("reason").value = "fills the disk"`, nil)
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

// picture writes the page into the file that RELAY_ADMIN_PICTURE names, as the README
// has it.
func (c *chromium) picture() {
	c.Helper()
	path := os.Getenv("RELAY_ADMIN_PICTURE")
	if path == "" {
		return
	}
	var shot struct{ Data string }
	c.do("Page.captureScreenshot", map[string]any{"format": "png"}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	require.NoError(c, err)
	require.NoError(c, os.WriteFile(path, png, 0o644))
}
