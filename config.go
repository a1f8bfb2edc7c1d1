package relay

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// HexKeys are the signing keys in P2P networks, where a server's name is its
// key: see wire.HexKeys.
type HexKeys = wire.HexKeys

// HexIdentity is the identity of a server in such a network: its name and its key.
func HexIdentity(key ed25519.PrivateKey) fclient.SigningIdentity { return wire.HexIdentity(key) }

// Defaults of Config.
const (
	DefaultDatabasePath     = "relay.db"
	DefaultMaxBodyBytes     = 10 << 20 // 50 PDUs and 100 EDUs of 64 KiB each fit
	DefaultMaxEntries       = 250_000
	DefaultMaxBytes         = 2 << 30
	DefaultOriginShare      = 0.5
	DefaultMaxStoreEntries  = 10_000_000
	DefaultMaxStoreBytes    = 16 << 30
	DefaultLifetime         = 30 * 24 * time.Hour
	DefaultMaxInFlightBytes = 40 << 20
	DefaultMaxBatch         = 500
	DefaultMaxBatchBytes    = 4 << 20
	DefaultMaxWait          = 5 * time.Minute
	DefaultMaxWaiting       = 20_000
	DefaultMaxRecords       = 20_000
	DefaultMaxReceipts      = 10_000
)

// Config of a Server. Only ServerName is required. In numbers, zero means the
// default, and a negative one that there is none of it, or no limit.
type Config struct {
	// ServerName is the name of this server, as others sign requests for it.
	ServerName spec.ServerName

	// IsLocalServerName says which other names this server goes by, as in
	// fclient.VerifyHTTPRequest. If it is set it must accept ServerName too.
	IsLocalServerName func(spec.ServerName) bool

	// Keys checks signatures; a *gomatrixserverlib.KeyRing is one. For P2P
	// networks, where names are keys, take HexKeys{Others: keyRing}, which is twice
	// as fast as the key ring alone. Default: HexKeys{}; other servers than those
	// of P2P networks are refused then, with a 401 and a log line that say so.
	Keys gomatrixserverlib.JSONVerifier

	// Store keeps the mail; the embedder closes it, after the Server. Nil: the
	// Server opens SQLite at DatabasePath, and closes it. A program that always
	// sets it can be built with the tag relay_nosqlite, which leaves SQLite out:
	// then New fails without it.
	Store store.Store

	// DatabasePath is used if Store is nil. Default: DefaultDatabasePath.
	DatabasePath string

	// Disabled starts the server switched off: see SetEnabled.
	Disabled bool

	// Policy decides who may use the relay, and how much: see package policy. Nil
	// admits everyone, within the limits below.
	Policy policy.Policy

	// ClientAddress says from which address a request came. Limits count by it, the
	// zero Addr stands for requests that have none: all of these are one party. Behind a
	// proxy it must be set, or all clients count as one: see ProxiedAddress. Nil:
	// RemoteAddress. It may be called by many goroutines at once.
	ClientAddress func(*http.Request) netip.Addr

	// MaxBodyBytes bounds a transaction; a larger one is refused with 413. Zero:
	// DefaultMaxBodyBytes. Negative: no limit.
	MaxBodyBytes int64

	// MaxEntries and MaxBytes bound the mailbox of a destination; mail that goes
	// over is refused with 507. OriginShare is the part of both that one origin
	// may fill, up to 1. Zero: DefaultMaxEntries, DefaultMaxBytes and
	// DefaultOriginShare. Negative: no limit.
	MaxEntries  int64
	MaxBytes    int64
	OriginShare float64

	// MaxStoreEntries and MaxStoreBytes bound the mailboxes of all servers together;
	// mail that goes over is refused with 507. On the disk an entry takes about 500
	// bytes besides its own. Zero: DefaultMaxStoreEntries and DefaultMaxStoreBytes.
	// Negative: no limit.
	MaxStoreEntries int64
	MaxStoreBytes   int64

	// Lifetime is how long mail is kept for a destination that doesn't fetch it.
	// It counts while the store is open, and not by the machine's clock: see
	// store.Mail. Zero: DefaultLifetime. Negative: for ever.
	Lifetime time.Duration

	// MaxInFlightBytes bounds the bytes of bodies that are held while they are read,
	// checked and stored, and likewise of answers while they are sent; the memory of
	// the process is a small multiple of that. If there is no room for a transfer,
	// another is cut off: one of the address that holds most (see ClientAddress), and
	// there of the name that holds most. One of the same address, or of an address that
	// holds as much, is cut off only after a few seconds, and a small one (256 KiB)
	// never for a large one, unless its address has more than 3 MiB of them. Large bodies
	// of one address hold at most three eighths of it, unless there is only one. A body
	// waits a moment for that, and is then refused with 429. A transfer that is alone
	// always finds room. To cut off, the http.ResponseWriter must have deadlines: one that
	// a middleware wraps needs an Unwrap method. Zero: DefaultMaxInFlightBytes. Negative:
	// no limit.
	MaxInFlightBytes int64

	// MaxBatch and MaxBatchBytes bound the transactions in one answer to a
	// receiver that asks for batches; one always fits. It is never more than a
	// quarter of MaxInFlightBytes. Zero: DefaultMaxBatch and
	// DefaultMaxBatchBytes. Negative: no other limit.
	MaxBatch      int
	MaxBatchBytes int64

	// MaxWait bounds how long an answer is held while there is no mail, for a
	// receiver that asks for that. MaxWaiting bounds how many are held, each
	// for the price of a goroutine and a connection. One address (see ClientAddress)
	// has at most one in 32 of them, or half where many parties can't be told apart,
	// and 16 for each destination. For one more, the oldest is answered as if its time
	// were over: of the name that has most, at the address that has most, where a /48 of
	// IPv6 counts as an address with a sixteenth of its places. Half as many requests
	// over a share (see Policy) wait for their 429, for half a second or, where an
	// address gets many, up to ten. Zero: DefaultMaxWait and
	// DefaultMaxWaiting. Negative, for either: none is held.
	MaxWait    time.Duration
	MaxWaiting int

	// MaxRecords bounds the records that are kept and given out of where the mail for
	// servers goes (see wire.RelayRecord), each of up to 4 KiB. There are none if the
	// store is no store.Notes. Zero: DefaultMaxRecords. Negative: none.
	MaxRecords int

	// MaxReceipts bounds, for each destination, the mail for which receipts are kept (see
	// wire.Receipt), each of them for 30 days; about a tenth of it may be for one origin. The
	// oldest make room, so that there may be a fifth more for a while. One takes 70 to 500
	// bytes, those of all destinations together at most a sixteenth of MaxStoreBytes: then
	// no more are kept, and mail is removed as before. No receipts are taken if the store is
	// no store.Notes or no store.Managed. Zero: DefaultMaxReceipts. Negative: none are taken.
	MaxReceipts int

	// Deliver takes mail for this server itself, which others pass on or leave
	// here. An error means that the mail wasn't processed: unless it is a *wire.Error,
	// the sender is told to come again. Nil: such mail goes into a mailbox like any
	// other's, and mail that others pass on is refused. Deliver may be called by many
	// goroutines at once; see client.Receiver.Direct for one way to process the mail.
	Deliver func(ctx context.Context, delivery Delivery) error

	// Stored is told of destinations that got mail, Asked of servers that ask
	// for theirs, and so are online. Nil tells nobody. Both are called synchronously,
	// so the request waits for them, and may be called by many goroutines at once.
	Stored func(destination spec.ServerName)
	Asked  func(server spec.ServerName)

	// Logger gets the lines that an operator should know of: no user content, no bodies.
	// Default: slog.Default().
	Logger *slog.Logger

	// Registerer gets the metrics, all of them named relay_*. Nil: none.
	Registerer prometheus.Registerer
}

// A Delivery is a transaction for this server.
type Delivery struct {
	// Origin is the server that signed it: the one that made the request, or, if
	// another one passes it on, the one that its proof names.
	Origin        spec.ServerName
	TransactionID gomatrixserverlib.TransactionID

	// Body is its JSON. It may lack an origin.
	Body []byte
}

func (c Config) withDefaults() (Config, error) {
	if err := wire.CheckName(c.ServerName); err != nil {
		return c, fmt.Errorf("relay: Config.ServerName %q: %w", c.ServerName, err)
	}
	if c.IsLocalServerName != nil && !c.IsLocalServerName(c.ServerName) {
		return c, errors.New("relay: Config.IsLocalServerName doesn't accept Config.ServerName")
	}
	if !(c.OriginShare <= 1) { // NaN too
		return c, fmt.Errorf("relay: Config.OriginShare %v is more than 1", c.OriginShare)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.ClientAddress == nil {
		c.ClientAddress = RemoteAddress
	}
	if c.Keys == nil {
		c.Keys = &defaultKeys{logger: c.Logger}
	}
	defaults.Set(&c.DatabasePath, DefaultDatabasePath)
	defaults.Set(&c.MaxBodyBytes, DefaultMaxBodyBytes)
	defaults.Set(&c.MaxEntries, DefaultMaxEntries)
	defaults.Set(&c.MaxBytes, DefaultMaxBytes)
	defaults.Bounds(&c.OriginShare, DefaultOriginShare, 1)
	defaults.Set(&c.MaxStoreEntries, DefaultMaxStoreEntries)
	defaults.Set(&c.MaxStoreBytes, DefaultMaxStoreBytes)
	defaults.Set(&c.Lifetime, DefaultLifetime)
	defaults.Set(&c.MaxInFlightBytes, DefaultMaxInFlightBytes)
	defaults.Set(&c.MaxBatch, DefaultMaxBatch)
	defaults.Set(&c.MaxBatchBytes, DefaultMaxBatchBytes)
	defaults.Set(&c.MaxWait, DefaultMaxWait)
	defaults.Set(&c.MaxWaiting, DefaultMaxWaiting)
	defaults.Set(&c.MaxRecords, DefaultMaxRecords)
	defaults.Set(&c.MaxReceipts, DefaultMaxReceipts)
	c.MaxBatch = int(min(atMost(int64(c.MaxBatch)), math.MaxInt32))
	c.MaxBatchBytes = atMost(c.MaxBatchBytes)
	c.MaxBodyBytes = atMost(c.MaxBodyBytes)
	c.MaxInFlightBytes = atMost(c.MaxInFlightBytes)
	c.MaxBatchBytes = min(c.MaxBatchBytes, c.MaxInFlightBytes/4) // while it is read, it holds that
	return c, nil
}

// atMost replaces a negative limit, which means none, by a large one.
func atMost(limit int64) int64 {
	const unlimited = 1 << 40
	if limit < 0 || limit > unlimited {
		return unlimited
	}
	return limit
}

// limits are those that the store is to enforce.
func (c *Config) limits() store.Limits {
	l := store.Limits{Entries: c.MaxEntries, Bytes: c.MaxBytes, StoreEntries: c.MaxStoreEntries, StoreBytes: c.MaxStoreBytes}
	if c.MaxEntries > 0 {
		l.OriginEntries = max(1, int64(float64(c.MaxEntries)*c.OriginShare))
	}
	if c.MaxBytes > 0 {
		l.OriginBytes = max(1, int64(float64(c.MaxBytes)*c.OriginShare))
	}
	return l
}

// isLocal reports whether a server is this one.
func (c *Config) isLocal(server spec.ServerName) bool {
	if c.IsLocalServerName != nil {
		return c.IsLocalServerName(server)
	}
	return server == c.ServerName
}

// isHandedOver reports whether mail for a server is handed to the embedder, and not
// kept.
func (c *Config) isHandedOver(server spec.ServerName) bool {
	return c.Deliver != nil && c.isLocal(server)
}
