package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/internal/freeport"
	"github.com/matrixrelay/relay/internal/need"
	"github.com/matrixrelay/relay/relaytest"
)

// A cellProxy is one of the proxies that contrib has a configuration for, in front of two
// cells.
type cellProxy struct {
	*testing.T
	address string
	folder  string
	line    string // of a mailbox that is moved
	cells   [2]string
	reload  syscall.Signal
	command *exec.Cmd

	believes bool // the address that a client writes into Test-Address
}

const nginxAround = `
daemon off;
user root;
error_log error.log;
pid nginx.pid;
events { worker_connections 2000; }
http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	set_real_ip_from 127.0.0.0/8;
	real_ip_header Test-Address;
	include %s;
}
`

// eachCellProxy runs a test with each of them. It begins with a file of moved mailboxes
// that is empty.
func eachCellProxy(t *testing.T, cells [2]string, test func(p *cellProxy)) {
	start := func(t *testing.T, p *cellProxy, contrib string, change *strings.Replacer, args ...string) {
		p.T, p.cells = t, cells
		raw, err := os.ReadFile("../../contrib/" + contrib)
		require.NoError(t, err)
		text := change.Replace(strings.NewReplacer("127.0.0.1:9001", cells[0], "127.0.0.1:9011", cells[1]).Replace(string(raw)))
		require.Contains(t, text, p.address)
		require.Contains(t, text, p.folder)
		require.NoError(t, os.WriteFile(filepath.Join(p.folder, contrib), []byte(text), 0o600))
		p.move(map[spec.ServerName]string{})
		p.command = exec.Command(args[0], args[1:]...)
		p.command.Stderr = os.Stderr
		require.NoError(t, p.command.Start())
		t.Cleanup(func() {
			_ = p.command.Process.Signal(syscall.SIGTERM) // it may have failed to start
			_ = p.command.Wait()
		})
		require.Eventually(t, p.answers, patience, 10*time.Millisecond)
		test(p)
	}
	t.Run("nginx", func(t *testing.T) {
		program := need.Program(t, "nginx")
		p := &cellProxy{address: fmt.Sprint("127.0.0.1:", freeport.Find(t, 1)[0]), folder: t.TempDir(), line: "%s relay_%s;\n", reload: syscall.SIGHUP, believes: true}
		file := filepath.Join(p.folder, "nginx.conf")
		require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, nginxAround, p.folder+"/cells.nginx.conf"), 0o600))
		start(t, p, "cells.nginx.conf", strings.NewReplacer("listen 8448 ssl", "listen "+p.address, "listen [::]:8448 ssl;", "", "/etc/nginx", p.folder,
			"ssl_certificate ", "#", "ssl_certificate_key ", "#"), program, "-p", p.folder, "-c", file)
	})
	t.Run("haproxy", func(t *testing.T) {
		program := need.Program(t, "haproxy")
		p := &cellProxy{address: fmt.Sprint("127.0.0.1:", freeport.Find(t, 1)[0]), folder: t.TempDir(), line: "%s %s\n", reload: syscall.SIGUSR2}
		start(t, p, "cells.haproxy.cfg", strings.NewReplacer(":8448 ssl crt /etc/haproxy/relay.pem", p.address, "/etc/haproxy", p.folder),
			program, "-W", "-f", p.folder+"/cells.haproxy.cfg")
	})
}

func (p *cellProxy) answers() bool {
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// move has mailboxes be in other cells: 0, 1 or moving. The proxy must be told.
func (p *cellProxy) move(to map[spec.ServerName]string) {
	p.Helper()
	var lines strings.Builder
	for name, cell := range to {
		if strings.Contains(p.line, "relay_") && cell != "moving" {
			cell = "cell_" + cell
		}
		_, _ = fmt.Fprintf(&lines, p.line, name, cell)
	}
	require.NoError(p, os.WriteFile(filepath.Join(p.folder, "relay-moved.map"), []byte(lines.String()), 0o600))
}

// network leads to the proxy.
func (p *cellProxy) network() *relaytest.Network {
	n := relaytest.NewNetwork()
	n.Set(relayName, relaytest.Host{Address: p.address})
	p.Cleanup(n.CloseIdleConnections)
	return n
}

// ask returns the body of the answer to an unsigned request.
func (p *cellProxy) ask(method, uri, authorization string) string {
	p.Helper()
	request, err := http.NewRequestWithContext(p.Context(), method, "http://"+p.address+uri, nil)
	require.NoError(p, err)
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(p, err)
	defer func() { require.NoError(p, response.Body.Close()) }()
	text := make([]byte, 1000)
	n, _ := response.Body.Read(text) // a few bytes, which come at once
	return string(text[:n])
}

// cells are two relays with databases of their own.
type cells struct {
	t         *testing.T
	addresses [2]string
	dbs       [2]string
	running   [2]*program
}

func newCells(t *testing.T) *cells {
	c := &cells{t: t}
	for i := range c.dbs {
		c.addresses[i], c.dbs[i] = fmt.Sprint("127.0.0.1:", freeport.Find(t, 1)[0]), database(t)
		c.start(i)
	}
	return c
}

func (c *cells) start(i int) {
	c.running[i] = startIn(c.t, "", "--listen", c.addresses[i], "--name", string(relayName), "--db", c.dbs[i], "--proxies", "127.0.0.1")
}

// where says in which cell there is mail for a server.
func (c *cells) where(t *testing.T) map[spec.ServerName]int {
	t.Helper()
	found := make(map[spec.ServerName]int)
	for i, db := range c.dbs {
		for _, box := range toolJSON[[]admin.Mailbox](t, "mailboxes", "--db", db) {
			require.NotContains(t, found, box.Name, "in both")
			found[box.Name] = i
		}
	}
	return found
}
