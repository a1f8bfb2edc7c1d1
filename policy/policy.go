// Package policy says who may use a relay, and how much of it.
//
// A Policy is asked about each request, stage by stage, before the relay spends more
// on it. The ones here are parts that an embedder composes with All or replaces:
//
//   - Limits: shares by address and by name of requests, bytes and stored bytes a time,
//     and of mail on its way in;
//   - a mode, which decides whose mail is kept: Closed (a list of destinations), Invite
//     (servers that have claimed their mailbox with an invite) or Open (anybody, with
//     little room until the owner has asked for its mail);
//   - Blocklist: servers and addresses that the operator has blocked, in the store's notes;
//   - Owners: a mode together with the policies of the owners of mailboxes;
//   - Func: a function of an embedder.
//
// Names cost nothing in an open network, and until the signature was checked anybody
// can write any name into a request. So a Policy that counts does it by address first,
// and by name only at the stage Signed.
package policy

import (
	"context"
	"net/netip"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// A Policy decides about requests. It is safe for concurrent use.
type Policy interface {
	// Admit is asked at each stage of a request, in order, and once more at the stage
	// Claimed about the origin of mail that another server passes on. To refuse the
	// request it returns a *wire.Error, which the caller is told; any other error is a
	// failure of ours, logged and answered with 500.
	Admit(ctx context.Context, r *Request) error
}

// A Stage is how much is known of a request.
type Stage int

const (
	// Arrived means that nothing was read but the head of the request: Address and
	// Known are set. Requests that no relay knows arrive, too.
	Arrived Stage = iota

	// Claimed means that the path and the header were read: Endpoint, Destination and
	// Origin are set, and anybody may have written them. The body wasn't read.
	Claimed

	// Signed means that the body is there and Origin has signed it: Bytes and Room are
	// set. The body wasn't parsed.
	Signed
)

// A Request is a request as a Policy sees it.
type Request struct {
	Stage Stage

	// Address is where the request came from, the zero Addr if that is no IP address:
	// see relay.Config.ClientAddress.
	Address netip.Addr

	// Known is a Member that has asked for its mail on this connection before. It is
	// empty if there was none, and where connections can't be told apart.
	Known spec.ServerName

	// Endpoint is the endpoint of the request; it is empty if there is none.
	Endpoint wire.Endpoint

	// Origin is the server that the request, or mail that is passed on, comes from.
	Origin spec.ServerName

	// PassedOn says that Origin is the origin of mail which another server passes on,
	// that was asked about before.
	PassedOn bool

	// Destination is the server whose mailbox the request is about. Local says that it
	// is this server, to which mail is handed and not kept.
	Destination spec.ServerName
	Local       bool

	// Keeps says that the request brings something that is kept as mail is: a record of
	// a server's relays, or receipts.
	Keeps bool

	// Bytes is the size of the body.
	Bytes int64

	// Room is the room that mail for Destination may take. A Policy may make it smaller.
	// Don't keep it.
	Room Room

	// Member is set by a Policy at the stage Signed if Origin has a mailbox here that
	// is promised to it.
	Member bool

	whenDone []func(Used)
	counted  *counted // by Limits
	whole    Room     // by Owners: the room before the owner's policy
	left     bool     // by Owners: Origin has left its mailbox
}

// Used is how many bytes a request has used when it is over.
type Used struct {
	// Received and Sent are the bytes of bodies. Stored is by how many bytes the store
	// has grown (of store.Mail.Size).
	Received, Sent, Stored int64
}

// WhenDone has a function called when the request is over, however it ended.
func (r *Request) WhenDone(f func(Used)) { r.whenDone = append(r.whenDone, f) }

// Done calls the functions of WhenDone, once: relay.Server calls it.
func (r *Request) Done(used Used) {
	for _, f := range r.whenDone {
		f(used)
	}
	r.whenDone = nil
}

// Func is a Policy by names: it is asked at the stage Claimed whether mail from origin
// is taken for destination, and about nothing else.
type Func func(ctx context.Context, origin, destination spec.ServerName) error

// Admit implements Policy.
func (f Func) Admit(ctx context.Context, r *Request) error {
	if r.Stage != Claimed || r.Endpoint != wire.SendRelay {
		return nil
	}
	return f(ctx, r.Origin, r.Destination)
}

// Inviting is an ability of a Policy: a server claims its mailbox with an invite.
type Inviting interface {
	// Claim takes the claim of r.Origin, which has signed it. It returns nil once the
	// mailbox is claimed on the disk; the error is like that of Policy.Admit.
	Claim(ctx context.Context, r *Request, claim wire.Claim) error
}

// Described is an ability of a Policy: it describes itself to callers of the relay.
type Described interface {
	// Describe fills in the fields that are about the Policy.
	Describe(info *wire.RelayInfo)
}

// Acting is an ability of a Policy: it knows for which servers the relay keeps mail for
// good, and so where they may put the record of their relays.
type Acting interface {
	// Acts reports whether that is so for a server.
	Acts(ctx context.Context, server spec.ServerName) (bool, error)
}

// ActingOf returns the first part of a Policy that is Acting, ok false if there is none.
func ActingOf(p Policy) (acting Acting, ok bool) {
	switch p := p.(type) {
	case all:
		for _, part := range p {
			if acting, ok := ActingOf(part); ok {
				return acting, true
			}
		}
		return nil, false
	case *Owners:
		return ActingOf(p.config.Mode)
	}
	acting, ok = p.(Acting)
	return acting, ok
}

// All admits a request if each of its policies admits it; they are asked in order.
// It is Inviting and Owning as the first is that has this ability, and Described as all
// are.
func All(policies ...Policy) Policy {
	var flat all
	for _, p := range policies {
		if parts, is := p.(all); is {
			flat = append(flat, parts...)
		} else {
			flat = append(flat, p)
		}
	}
	return flat
}

type all []Policy // none of which is one

var _ interface {
	Inviting
	Described
	Owning
} = (all)(nil)

// Owners implements Owning.
func (a all) Owners() *Owners {
	for _, p := range a {
		if owning, ok := p.(Owning); ok {
			return owning.Owners()
		}
	}
	return nil
}

// Describe implements Described.
func (a all) Describe(info *wire.RelayInfo) {
	for _, p := range a {
		if described, ok := p.(Described); ok {
			described.Describe(info)
		}
	}
}

// Claim implements Inviting.
func (a all) Claim(ctx context.Context, r *Request, claim wire.Claim) error {
	for _, p := range a {
		if inviting, ok := p.(Inviting); ok {
			return inviting.Claim(ctx, r, claim)
		}
	}
	return wire.Unrecognized()
}

// Admit implements Policy.
func (a all) Admit(ctx context.Context, r *Request) error {
	for _, p := range a {
		if err := p.Admit(ctx, r); err != nil {
			return err
		}
	}
	return nil
}
