package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

const serveHelp = `A Matrix relay: it takes in transactions for servers that can't be reached
(send_relay) and keeps them until those servers fetch them (relay_txn). It needs
no account, no configuration file and no other service:

  relay serve --listen 127.0.0.1:9001 --name relay --db relay.db

Nodes must know it by its name and find it at its address. Every server may
leave mail, and fetch its own, unless --mode says otherwise. A SIZE is a number of
bytes such as 500000, 64KiB, 10MiB or 2GiB; where a limit is asked for, none
means no limit.

Each address and each server has a share of requests, bytes and room, so that
nobody stops the relay for the others. Behind a proxy set --proxies, or all
clients that come through it have one share together. To let in only servers that you invite:

  relay serve --name relay --mode invite --invite-key invite.key
  relay invite --invite-key invite.key

With --pass-on the relay also brings mail to its destination, and to other relays
of the destination, with the proof that its sender signed it. The relay's own key is
its name, unless it has another:

  relay serve --signing-key relay.pem --pass-on all --at SERVER=HOST:PORT

Servers that never ask here have little room with --mode open, also if mail is
passed on to them: name them with --for, or use --mode any.

SIGTERM and SIGINT stop it: requests under way are answered first. It exits with
0 after that.`

// options are those of the command line.
type options struct {
	listen  string
	metrics string
	name    string
	db      string
	nats    natsFlags
	moving  moving
	cert    string
	key     string
	keys    string

	signingKey string
	pass       passing

	access      access
	admin       adminFlags
	proxies     prefixList
	proxyHeader string
	config      relay.Config // the limits in it

	maxBatch, maxWaiting count // and these of it
	connections          connections
}

func newServe() *cobra.Command {
	o, print := new(options), false
	c := &cobra.Command{
		Use: "serve", Short: "Run a relay", Long: serveHelp, GroupID: groupRun, Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if print {
				if err := newSettings().print(c); err != nil {
					return err
				}
			}
			if err := o.check(); err != nil {
				return usageError{err}
			}
			if print {
				return nil
			}
			return serveAndLog(c.Context(), o, c.ErrOrStderr())
		},
	}
	o.flags(c.Flags())
	c.Flags().BoolVar(&print, "print-config", false, "print all options, each with where it is from, and do nothing else")
	return c
}

// serveAndLog is serve with a log.
func serveAndLog(ctx context.Context, o *options, stderr io.Writer) error {
	log := slog.New(slog.NewTextHandler(stderr, nil))
	err := serve(ctx, o, log)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && errors.Is(err, context.Canceled): // as it was told to, while it waited for its database
		log.Info("stopped before it listened", "error", err)
		return nil
	}
	log.Error("failed", "error", err)
	return errLogged
}

func (o *options) flags(f *pflag.FlagSet) {
	f.SortFlags = false
	f.StringVar(&o.name, "name", "", "the `SERVERNAME` of this relay, which requests to it are signed for\n(required, unless with --signing-key the key is to be its name)")
	f.StringVar(&o.listen, "listen", "127.0.0.1:9001", "serve at this `ADDRESS`; port 0 takes one that is free. A socket that\nsystemd hands over takes its place")
	f.StringVar(&o.db, "db", relay.DefaultDatabasePath,
		"keep mail in this SQLite `FILE`, which one relay can use at a time,\nor in "+inMemory+", where it ends with the process, or in a database that\nseveral relays can share: PostgreSQL at a postgres:// URL, or NATS\nservers at nats:// or tls:// URLs with commas between them")
	o.nats.flags(f)
	o.moving.flags(f)
	f.StringVar(&o.cert, "tls-cert", "", "serve TLS with the certificate chain in this PEM `FILE`, read at the\nstart (needs --tls-key)")
	f.StringVar(&o.key, "tls-key", "", "the private key of --tls-cert, a PEM `FILE`")
	o.access.flags(f)
	f.Var(&o.proxies, "proxies", "the `ADDRESSES` or networks of proxies before the relay, with commas\nbetween them: they are believed about their clients' addresses")
	f.StringVar(&o.proxyHeader, "proxy-header", "X-Forwarded-For", "the header in which they say it is called `NAME`")
	f.StringVar(&o.keys, "keys", keysPublic, "`WHERE` to look up the keys of servers whose name isn't their key:\n"+
		keysNone+" (such servers are refused), "+keysPublic+" (at public addresses only) or\n"+keysAny+" (at private ones too)")
	f.StringVar(&o.metrics, "metrics", "", "serve Prometheus metrics at http://`ADDRESS`/metrics, and for\nsupervisors /healthz (alive) and /readyz (can store and read) there\n(default nowhere)")
	o.admin.flags(f)
	f.StringVar(&o.signingKey, "signing-key", "", "sign requests with the key in this `FILE`, in the form of Dendrite's\n"+
		"matrix_key.pem; it is made if there is none. A name that isn't the\nkey itself gets it published at "+keyPath)
	o.pass.flags(f)
	o.limitFlags(f)
}

func (o *options) limitFlags(f *pflag.FlagSet) {
	c := &o.config
	*c = relay.Config{
		MaxBodyBytes: relay.DefaultMaxBodyBytes, MaxInFlightBytes: relay.DefaultMaxInFlightBytes,
		MaxEntries: relay.DefaultMaxEntries, MaxBytes: relay.DefaultMaxBytes, OriginShare: relay.DefaultOriginShare,
		MaxStoreEntries: relay.DefaultMaxStoreEntries, MaxStoreBytes: relay.DefaultMaxStoreBytes, Lifetime: relay.DefaultLifetime,
		MaxWait: relay.DefaultMaxWait,
	}
	o.maxBatch, o.maxWaiting = relay.DefaultMaxBatch, relay.DefaultMaxWaiting
	f.Var((*size)(&c.MaxBodyBytes), "max-body", "refuse transactions larger than this `SIZE`")
	f.Var((*size)(&c.MaxInFlightBytes), "max-in-flight", "use at most this `SIZE` of memory for bodies that are being read;\na request that doesn't fit is told to come back")
	f.Var((*count)(&c.MaxEntries), "max-entries", "keep at most this `NUMBER` of transactions for one destination")
	f.Var((*size)(&c.MaxBytes), "max-bytes", "keep at most this `SIZE` for one destination")
	f.Float64Var(&c.OriginShare, "origin-share", c.OriginShare, "the `PART` of --max-entries and --max-bytes that one sender may\nfill, over 0 and up to 1")
	f.Var((*count)(&c.MaxStoreEntries), "max-store-entries", "keep at most this `NUMBER` of transactions in all; each takes about\n500 bytes on the disk besides its own")
	f.Var((*size)(&c.MaxStoreBytes), "max-store", "keep at most this `SIZE` in all")
	o.moving.copies = store.DefaultMaxCopies
	f.Var(&o.moving.copies, "max-copies", "remember at most this `NUMBER` of transactions that were fetched, to\nrecognise copies of them, of one sender a sixteenth; each takes 400 to\n1,000 bytes on the disk, and several times that if it was large")
	f.Var((*lifetime)(&c.Lifetime), "lifetime", "keep mail that isn't fetched for this `DURATION`, such as 36h or\n30d; none is for ever")
	f.Var(&o.maxBatch, "max-batch", "hand out at most this `NUMBER` of transactions at once")
	f.Var((*lifetime)(&c.MaxWait), "max-wait", "hold the answer to a request that waits for mail for at most this\n`DURATION`; none is not at all")
	o.connections.flags(f)
	f.Var(&o.maxWaiting, "max-waiting", "hold at most this `NUMBER` of answers; none holds none")
}

func (o *options) check() error {
	c := &o.config
	badName := wire.CheckName(spec.ServerName(o.name))
	switch {
	case o.name == "" && o.signingKey == "":
		return errors.New("--name is required")
	case o.name != "" && badName != nil:
		return fmt.Errorf("--name: %q: %w", o.name, badName)
	case o.db == "":
		return errors.New("--db is empty")
	case (o.cert == "") != (o.key == ""):
		return errors.New("--tls-cert and --tls-key need each other")
	case !slices.Contains([]string{keysNone, keysPublic, keysAny}, o.keys):
		return fmt.Errorf("--keys: %q is not one of %s, %s and %s", o.keys, keysNone, keysPublic, keysAny)
	case !(c.OriginShare > 0 && c.OriginShare <= 1):
		return fmt.Errorf("--origin-share: %v is not over 0 and up to 1", c.OriginShare)
	case c.MaxInFlightBytes > 0 && c.MaxBodyBytes < 0:
		return errors.New("--max-body none needs --max-in-flight none")
	case c.MaxInFlightBytes > 0 && c.MaxInFlightBytes < c.MaxBodyBytes:
		return errors.New("--max-in-flight is less than --max-body")
	}
	return errors.Join(o.access.check(c.MaxStoreEntries, c.MaxStoreBytes), checkDB("--db", o.db), o.moving.check(o.db), o.nats.check(o.db, o.moving.from), o.admin.check(), o.pass.check(o.signingKey))
}

// certificate returns the TLS configuration, nil if there is to be none.
func (o *options) certificate() (*tls.Config, error) {
	if o.cert == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}, nil
}

// relayConfig is the configuration of the relay, without metrics.
func (o *options) relayConfig(name spec.ServerName, mail store.Store, log *slog.Logger) relay.Config {
	c := o.config
	c.ServerName, c.Store, c.Logger = name, mail, log
	c.MaxBatch = int(min(o.maxBatch, math.MaxInt32))
	_, c.MaxWaiting = o.connections.fit(o.maxWaiting)
	if len(o.proxies) > 0 {
		c.ClientAddress = relay.ProxiedAddress(o.proxyHeader, o.proxies...)
	}
	return c
}
