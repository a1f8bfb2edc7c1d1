package policy

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/address"
	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/internal/table"
	"github.com/matrixrelay/relay/wire"
)

// A Rate is so much a second, and so much at once after a rest.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Unlimited is a Rate without a limit.
var Unlimited = Rate{PerSecond: -1}

// Shares are the shares of one party. The zero Rate and number stand for the default,
// Unlimited and a negative number for no limit.
type Shares struct {
	// Requests are those of any kind. Bytes are those of bodies of requests and of
	// answers. Stored are bytes by which the store grows; each transaction counts for
	// 1,000 more than its own, about as many as are remembered of it.
	Requests, Bytes, Stored Rate

	// UnderWay is how many transactions may be on their way in at once.
	UnderWay int
}

// Defaults of LimitsConfig: enough for a homeserver in many rooms at its worst, when it
// sends a backlog or fetches one.
var (
	DefaultAddress = Shares{
		Requests: Rate{200, 1000}, Bytes: Rate{4 << 20, 256 << 20}, Stored: Rate{1 << 20, 256 << 20}, UnderWay: 128,
	}
	DefaultName = Shares{Requests: Rate{200, 1000}, Bytes: Rate{4 << 20, 256 << 20}, Stored: Rate{1 << 20, 256 << 20}}
)

// Other defaults of LimitsConfig.
const (
	DefaultWide    = address.Wide
	DefaultParties = 50_000
)

// membersFactor is how many times the share of an address the Members at it have together,
// on their own connections.
const membersFactor = 16

// LimitsConfig is the configuration of Limits. The zero value has the defaults.
type LimitsConfig struct {
	// Address is the share of one address: an IPv4 address, or a /64 of IPv6. Name is
	// that of one server, as far as it signs. Its UnderWay doesn't count.
	Address, Name Shares

	// Wide is how many times the share of an address a network has that may hold many
	// parties: a /48 of IPv6, an overlay network, loopback, and all parties without an
	// IP address together. Zero: DefaultWide.
	Wide int

	// Parties is how many addresses, and how many /64s of IPv6 and how many names, are
	// remembered; the least used are forgotten. Zero: DefaultParties.
	Parties int
}

// Limits is a Policy that gives each address and each name its share. It refuses
// requests over a share with 429, before anything of the request is parsed, verified or
// read. A request that costs more than is left is admitted, and those after it pay.
//
// On the connection of a Member its name counts, and its address doesn't: others at
// the same address can't use up the share that the Member needs. All Members at one
// address together have sixteen times the share of the address, since an address
// can claim mailboxes for many names in time.
type Limits struct {
	config LimitsConfig

	addresses *table.Addresses[party]
	members   *table.Addresses[party] // on their own connections

	mu    sync.Mutex
	names *table.Table[spec.ServerName, *party]
}

var _ Policy = (*Limits)(nil)

// NewLimits makes Limits.
func NewLimits(config LimitsConfig) *Limits {
	defaults.Set(&config.Wide, DefaultWide)
	defaults.Set(&config.Parties, DefaultParties)
	config.Address = config.Address.withDefaults(DefaultAddress)
	config.Name = config.Name.withDefaults(DefaultName)
	return &Limits{
		config: config,
		members: table.NewAddresses(config.Parties, config.Wide, func(times int) *party {
			return newParty(config.Address, membersFactor*times)
		}),
		addresses: table.NewAddresses(config.Parties, config.Wide, func(times int) *party { return newParty(config.Address, times) }),
		names:     table.New[spec.ServerName, *party](config.Parties),
	}
}

// Admit implements Policy.
func (l *Limits) Admit(_ context.Context, r *Request) error {
	switch {
	case r.PassedOn:
		return nil // the server that passes it on is counted
	case r.Stage == Arrived:
		return l.arrive(r)
	case r.counted == nil || r.counted.by != l:
		return nil // it hasn't arrived here
	case r.Stage == Claimed && r.Keeps:
		return r.counted.mayStore(r.counted.parties...)
	case r.Stage == Claimed && r.Endpoint == wire.SendRelay:
		if err := r.counted.mayStore(r.counted.parties...); err != nil {
			return err
		}
		return r.counted.enter()
	case r.Stage == Signed && r.Origin != r.Known: // which is counted already
		return l.sign(r)
	}
	return nil
}

// arrive counts a request for its address, or for the server whose connection it is.
func (l *Limits) arrive(r *Request) error {
	c := &counted{by: l, what: "address"}
	if r.Known != "" {
		c.what, c.parties = "server, or all at its address,", append(l.members.Of(r.Address), l.name(r.Known))
	} else {
		c.parties = l.addresses.Of(r.Address)
	}
	r.counted = c
	r.WhenDone(c.end)
	return c.begin(c.parties...)
}

// sign counts a request for the server that has signed it, too. Mail counts for it only
// if it is stored: any server that has a proof of origin can send that mail again.
func (l *Limits) sign(r *Request) error {
	c, p := r.counted, l.name(r.Origin)
	c.what = "server"
	if r.Endpoint == wire.SendRelay {
		c.sender = p
		return cmp.Or(c.may(p), c.mayStore(p))
	}
	if r.Keeps {
		if err := c.mayStore(p); err != nil {
			return err
		}
	}
	if err := c.begin(p); err != nil {
		return err
	}
	c.parties = append(c.parties, p)
	return nil
}

func (l *Limits) name(server spec.ServerName) *party {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.names.Find(server, func() *party { return newParty(l.config.Name, 1) })
}

// counted is a request that Limits count for some parties.
type counted struct {
	by      *Limits
	what    string // the last of the parties is
	parties []*party
	entered int    // so many of them have it among those on their way
	sender  *party // that it counts for, too, if mail is stored
}

// begin counts a request, unless one of the parties has used its share: then it costs
// none of them anything.
func (c *counted) begin(parties ...*party) error {
	if err := c.may(parties...); err != nil {
		return err
	}
	for _, p := range parties {
		p.requests.take(time.Now(), 1)
	}
	return nil
}

// may refuses a request if one of the parties has used its share.
func (c *counted) may(parties ...*party) error {
	now := time.Now()
	for _, p := range parties {
		if wait := max(p.bytes.wait(now), p.requests.wait(now)); wait > 0 {
			return overShare("this "+c.what+" has used its share for now", wait)
		}
	}
	return nil
}

// mayStore refuses mail if one of the parties has stored its share.
func (c *counted) mayStore(parties ...*party) error {
	for _, p := range parties {
		if wait := p.stored.wait(time.Now()); wait > 0 {
			return overShare("this "+c.what+" has stored its share for now", wait)
		}
	}
	return nil
}

// enter counts a transaction in that is on its way.
func (c *counted) enter() error {
	for _, p := range c.parties {
		if !p.enter() {
			return overShare("this "+c.what+" has too many transactions on their way", 0)
		}
		c.entered++
	}
	return nil
}

// end counts the bytes that the request has used.
func (c *counted) end(used Used) {
	now := time.Now()
	for i, p := range c.parties {
		p.use(now, used)
		if i < c.entered {
			p.leave()
		}
	}
	if c.sender != nil && used.Stored > 0 {
		c.sender.requests.take(now, 1)
		c.sender.use(now, used)
	}
}

// overShare is the answer to a party that has none left.
func overShare(message string, after time.Duration) error {
	return wire.LimitExceeded(message, max(after, time.Second))
}
