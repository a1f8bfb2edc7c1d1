package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A relayProcess is the relay as its parent sees it.
type relayProcess struct {
	command *exec.Cmd
	stdin   io.Closer // ends the process when it is closed
	address string
}

// startRelay runs this program again, as the relay.
func startRelay(ctx context.Context, name spec.ServerName, database string) (*relayProcess, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &relayProcess{command: exec.CommandContext(ctx, program, relayCommand, string(name), database)}
	p.command.Stderr = os.Stderr
	if p.stdin, err = p.command.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.command.Start(); err != nil {
		return nil, fmt.Errorf("starting the relay: %w", err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		p.kill()
		return nil, fmt.Errorf("the relay process %d ended before it said its address: %w", p.id(), err)
	}
	p.address = strings.TrimSpace(line)
	return p, nil
}

func (p *relayProcess) id() int { return p.command.Process.Pid }

// kill ends the process at once, with SIGKILL where there are signals: it can
// do nothing about it, and writes nothing more.
func (p *relayProcess) kill() {
	_ = p.command.Process.Kill() // it may have ended already
	_ = p.command.Wait()         // says only that it was killed
}

// stop asks the process to end and reports how it did.
func (p *relayProcess) stop() error {
	if err := p.stdin.Close(); err != nil {
		return err
	}
	if err := p.command.Wait(); err != nil {
		return fmt.Errorf("the relay process ended badly: %w", err)
	}
	return nil
}
