package main

import (
	"context"
	"io"
)

// An input reads another one until ctx ends, so that a signal ends a command that waits
// for a person, or for a pipe. It isn't safe for concurrent use.
type input struct {
	ctx  context.Context
	from io.Reader

	buffer  [64 << 10]byte
	pending chan taken // nil if nothing is being read
	rest    []byte     // of buffer
	err     error      // comes behind rest
}

// taken is the result of reading into the buffer.
type taken struct {
	n   int
	err error
}

// Read implements io.Reader. Nothing can end a read of a terminal: one that is under way
// when ctx ends goes on until the process ends.
func (i *input) Read(into []byte) (int, error) {
	if len(i.rest) == 0 && i.err == nil {
		if err := i.read(); err != nil {
			return 0, err
		}
	}
	n := copy(into, i.rest)
	if i.rest = i.rest[n:]; len(i.rest) > 0 {
		return n, nil
	}
	err := i.err
	i.err = nil
	return n, err
}

// read reads into the buffer. It returns an error if ctx has ended.
func (i *input) read() error {
	if i.pending == nil {
		i.pending = make(chan taken, 1)
		go func(done chan<- taken) {
			n, err := i.from.Read(i.buffer[:])
			done <- taken{n, err}
		}(i.pending)
	}
	select {
	case <-i.ctx.Done():
		return i.ctx.Err()
	case got := <-i.pending:
		i.pending, i.rest, i.err = nil, i.buffer[:got.n], got.err
		return nil
	}
}
