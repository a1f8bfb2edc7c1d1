package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"

	"github.com/matrixrelay/relay/admin"
)

// unixScheme begins the address of a Unix socket.
const unixScheme = "unix:"

// adminFlags are the options on where the operator's interface is.
type adminFlags struct{ address, tokenFile string }

func (a *adminFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&a.address, "admin", "", "the operator's interface is at this `ADDRESS`: unix:PATH, a socket that only\n"+
		"the relay's own user may open, or HOST:PORT (needs --admin-token); "+none+" is\nnowhere (default unix: and the name of the database's file with -admin)")
	f.StringVar(&a.tokenFile, "admin-token", "", "at HOST:PORT it asks for the secret in this `FILE`, which is made if there\nis none")
}

// clientFlags are those of commands that speak with a relay.
func (a *adminFlags) clientFlags(f *pflag.FlagSet, byDefault string) {
	f.StringVar(&a.address, "admin", "", "the `ADDRESS` that the relay's --admin has: unix:PATH, or HOST:PORT on this machine;\n"+
		"elsewhere an http:// or https:// URL"+byDefault)
	f.StringVar(&a.tokenFile, "admin-token", "", "the `FILE` that the relay's --admin-token has")
}

// connect makes a client of the interface at an address.
func (a *adminFlags) connect(address string) (*admin.Client, error) {
	switch {
	case strings.HasPrefix(address, unixScheme), a.isWeb():
	case isHere(address):
		address = "http://" + address
	default: // a token is a secret, so nobody has it cross a network unawares
		return nil, usageError{fmt.Errorf("--admin: %s is on another machine: https://%s, if the relay has a certificate, or http://%[1]s", address, address)}
	}
	token := ""
	if a.tokenFile != "" {
		secret, err := readSecret(a.tokenFile, admin.MinToken)
		if err != nil {
			return nil, fmt.Errorf("--admin-token: %w", err)
		}
		token = string(secret)
	}
	client, err := admin.NewClient(address, token)
	if err != nil {
		return nil, usageError{err}
	}
	return client, nil
}

// isWeb reports whether the address is a URL, which only clients use.
func (a *adminFlags) isWeb() bool { return hasScheme(a.address, "http", "https") }

// isHere reports whether HOST:PORT is on this machine, whatever the network is.
func isHere(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil || host == "" || host == "localhost" {
		return true // an address that isn't HOST:PORT has an error of its own
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && (ip.IsLoopback() || ip.IsUnspecified())
}

// resolve returns the address, or that of the default; it is empty if there is none.
func (a *adminFlags) resolve(db string) string {
	switch {
	case a.address == none:
		return ""
	case a.address != "":
		return a.address
	case db == inMemory || strings.Contains(db, "://"):
		return ""
	}
	return unixScheme + db + "-admin"
}

func (a *adminFlags) check() error {
	path, isUnix := strings.CutPrefix(a.address, unixScheme)
	switch {
	case a.address == "" || a.address == none:
		return nil
	case isUnix && path == "":
		return errors.New("--admin: unix: needs the path of the socket")
	case isUnix:
		return nil
	case a.tokenFile == "":
		return errors.New("--admin needs --admin-token if it isn't a Unix socket")
	}
	if _, _, err := net.SplitHostPort(a.address); err != nil {
		return fmt.Errorf("--admin: %q is neither unix:PATH nor HOST:PORT", a.address)
	}
	return nil
}

// listenOperator adds the server of the operator's interface, if there is to be one.
func (o *options) listenOperator(all *webServers, desk admin.Config, log *slog.Logger) error {
	address := o.admin.resolve(o.db)
	if address == "" {
		return nil
	}
	s, err := o.listenAdmin(address, desk, log)
	switch {
	case err == nil:
		all.add(s, "admin", s.adminAddress())
	case o.admin.address != "":
		return err
	default: // nobody asked for it
		log.Warn("there is no interface for the operator", "error", err)
	}
	return nil
}

// listenAdmin makes the server of the operator's interface.
func (o *options) listenAdmin(address string, config admin.Config, log *slog.Logger) (*webServer, error) {
	if o.access.invite != "" {
		var err error
		if config.InviteKey, err = o.access.invite.key(); err != nil {
			return nil, err
		}
	}
	desk, err := admin.New(config)
	if err != nil {
		return nil, fmt.Errorf("--admin: %w", err)
	}
	if path, isUnix := strings.CutPrefix(address, unixScheme); isUnix {
		listener, err := admin.ListenUnix(path)
		if err != nil {
			return nil, fmt.Errorf("--admin: %w", err)
		}
		return newOperatorServer(listener, desk.Handler(), log), nil
	}
	return o.listenAdminTCP(address, desk.Handler(), log)
}

// adminAddress is the address as --admin has it.
func (s *webServer) adminAddress() string {
	if at := s.listener.Addr(); at.Network() == "unix" {
		return unixScheme + at.String()
	}
	return s.address()
}

// listenAdminTCP has it ask for the token, over TLS if the relay has a certificate.
func (o *options) listenAdminTCP(address string, handler http.Handler, log *slog.Logger) (*webServer, error) {
	token, err := readOrMakeSecret(o.admin.tokenFile, admin.MinToken)
	if err != nil {
		return nil, fmt.Errorf("--admin-token: %w", err)
	}
	if handler, err = admin.RequireToken(string(token), handler); err != nil {
		return nil, err
	}
	var tlsConfig *tls.Config
	if tlsConfig, err = o.certificate(); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--admin: %w", err)
	}
	if at, ok := listener.Addr().(*net.TCPAddr); tlsConfig == nil && ok && !at.IP.IsLoopback() {
		log.Warn("the operator's token crosses the network unencrypted: --admin needs --tls-cert, or a loopback address", "admin", at)
	}
	s := newOperatorServer(listener, handler, log)
	s.TLSConfig = tlsConfig
	return s, nil
}
