package main

import (
	"io"
	"os"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// A terminal shows characters that could control it as escapes: strangers write mail, and
// other servers the errors that a command shows.
type terminal struct{ file *os.File }

// onTerminal returns such a writer if out is a terminal, and else out.
func onTerminal(out io.Writer) io.Writer {
	file, ok := out.(*os.File)
	if !ok {
		return out
	}
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return out
	}
	return &terminal{file}
}

// Write implements io.Writer. A character that is divided between two calls is shown as
// bytes.
func (t *terminal) Write(text []byte) (int, error) {
	if _, err := t.file.Write(escaped(text)); err != nil {
		return 0, err
	}
	return len(text), nil
}

// escaped leaves printable characters, line feeds and tabs as they are, and has escapes for
// the rest.
func escaped(text []byte) []byte {
	shown := make([]byte, 0, len(text))
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == '\n', r == '\t', unicode.IsPrint(r) && (r != utf8.RuneError || size > 1):
			shown = append(shown, text[:size]...)
		default:
			quoted := strconv.AppendQuoteToASCII(nil, string(text[:size]))
			shown = append(shown, quoted[1:len(quoted)-1]...)
		}
		text = text[size:]
	}
	return shown
}
