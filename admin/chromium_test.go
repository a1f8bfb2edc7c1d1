package admin_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/need"
)

// A chromium is a browser without a screen that does as it's told over a pipe, in the
// Chrome DevTools Protocol: JSON with a zero byte behind each message.
type chromium struct {
	testing.TB
	ctx     context.Context
	in      io.Writer
	out     *bufio.Reader
	lastID  int
	session string
	loads   int // of pages
}

// browserPatience is how long a browser may take for a page on a busy machine.
const browserPatience = 2 * time.Minute

func startChromium(t testing.TB) *chromium {
	t.Helper()
	program := need.Program(t, "chromium-headless-shell")
	ctx, cancel := context.WithTimeout(t.Context(), browserPatience)
	commands, in, err := os.Pipe()
	require.NoError(t, err)
	out, answers, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.CommandContext(ctx, program, "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-proxy-server",
		"--user-data-dir="+t.TempDir(), "about:blank")
	cmd.ExtraFiles = []*os.File{commands, answers} // it reads from 3 and writes to 4
	require.NoError(t, cmd.Start())
	require.NoError(t, commands.Close())
	require.NoError(t, answers.Close())
	t.Cleanup(func() {
		_, _ = in.Write([]byte(`{"id":1000000,"method":"Browser.close"}` + "\x00")) // it may have ended
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait() // it ends as it likes
		cancel()
		require.NoError(t, in.Close())
		require.NoError(t, out.Close())
	})
	c := &chromium{TB: t, ctx: ctx, in: in, out: bufio.NewReader(out)}
	var target struct{ TargetID string }
	c.do("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	c.do("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	c.session = attached.SessionID
	c.do("Page.enable", nil, nil)
	c.do("Emulation.setScriptExecutionDisabled", map[string]any{"value": true}, nil)
	return c
}

// A message is a command, its answer or an event.
type message struct {
	ID        int                       `json:"id,omitempty"`
	SessionID string                    `json:"sessionId,omitempty"`
	Method    string                    `json:"method,omitempty"`
	Params    any                       `json:"params,omitempty"`
	Result    json.RawMessage           `json:"result,omitempty"`
	Error     *struct{ Message string } `json:"error,omitempty"`
}

// do has the browser carry a command out, and reads the result.
func (c *chromium) do(method string, params, result any) {
	c.Helper()
	c.lastID++
	command, err := json.Marshal(message{ID: c.lastID, SessionID: c.session, Method: method, Params: params})
	require.NoError(c, err)
	_, err = c.in.Write(append(command, 0))
	require.NoError(c, err)
	for {
		answer := c.read()
		if answer.ID != c.lastID {
			continue
		}
		require.Nil(c, answer.Error, "%s: %v", method, answer.Error)
		if result != nil {
			require.NoError(c, json.Unmarshal(answer.Result, result))
		}
		return
	}
}

// read reads a message.
func (c *chromium) read() (m message) {
	c.Helper()
	raw, err := c.out.ReadBytes(0)
	require.NoError(c, err, "the browser says nothing more")
	require.NoError(c, json.Unmarshal(raw[:len(raw)-1], &m))
	if m.Method == "Page.loadEventFired" {
		c.loads++
	}
	return m
}

// loading does something that opens a page, and waits for that.
func (c *chromium) loading(do func()) {
	c.Helper()
	before := c.loads
	do()
	for c.loads == before {
		c.read()
	}
}

func (c *chromium) open(url string) {
	c.Helper()
	c.loading(func() { c.do("Page.navigate", map[string]any{"url": url}, nil) })
}

// ask evaluates an expression of JavaScript, which the page itself may not run.
func (c *chromium) ask(expression string, into any) {
	c.Helper()
	var answer struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	c.do("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &answer)
	require.Empty(c, answer.ExceptionDetails, string(answer.ExceptionDetails))
	if into != nil {
		require.NoError(c, json.Unmarshal(answer.Result.Value, into), expression)
	}
}

// click clicks on the link or button with that text.
func (c *chromium) click(text string) {
	c.Helper()
	c.loading(func() {
		c.ask(fmt.Sprintf(`[...document.querySelectorAll("a, button")].find(e => e.textContent.replace(/\s+/g, " ").trim() === %q).click()`, text), nil)
	})
}

// text returns the words on the page, as a reader sees them.
func (c *chromium) text() (text string) {
	c.Helper()
	c.ask(`document.body.innerText`, &text)
	return text
}

// screen sets the width; narrow ones are phones.
func (c *chromium) screen(width int) {
	c.Helper()
	c.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}, nil)
}

// prefer says whether the reader likes it dark or light.
func (c *chromium) prefer(scheme string) {
	c.Helper()
	c.do("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}
