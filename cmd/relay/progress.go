package main

import (
	"fmt"
	"io"
	"strings"
)

// A progress is a line about something that takes long, which is written over. It is
// there for people only: on a terminal.
type progress struct {
	out   io.Writer
	shown bool
}

// newProgress makes one on out, which is usually stderr.
func newProgress(out io.Writer) *progress {
	if t, ok := out.(*terminal); ok {
		return &progress{out: t.file}
	}
	return &progress{}
}

// show shows how much of all is done. The line says it in words, too.
func (p *progress) show(done, all int64, words string) {
	if p.out == nil {
		return
	}
	const width = 30
	full := width
	if all > 0 {
		full = int(min(done, all) * width / all)
	}
	_, _ = fmt.Fprintf(p.out, "\r[%s%s] %s\x1b[K", strings.Repeat("#", full), strings.Repeat(" ", width-full), words) // it is only a show
	p.shown = true
}

// end leaves the line as it is. It may be called twice.
func (p *progress) end() {
	if p.shown {
		_, _ = fmt.Fprintln(p.out)
		p.shown = false
	}
}
