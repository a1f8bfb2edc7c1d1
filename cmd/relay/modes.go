package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/spf13/pflag"

	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// anyone is the mode in which all mailboxes are alike. The others are those of package
// wire.
const anyone = "any"

// access has the command line's options on who may use the relay, and how much.
type access struct {
	mode    string
	actsFor serverList
	file    string // with more of these
	invite  inviteKey

	promise                   size
	requests, traffic, stored float64 // a second, negative for no limit
}

func (a *access) flags(f *pflag.FlagSet) {
	a.promise = size(policy.DefaultPromise.Bytes)
	a.requests, a.traffic, a.stored = 200, 4<<20, 1<<20
	f.StringVar(&a.mode, "mode", "", "keep mail for these `SERVERS`: "+string(wire.Open)+" is everyone, with little room for a server\n"+
		"until it has asked for its mail here, "+string(wire.Invite)+" is those that have used an invite\n(needs --invite-key), "+
		string(wire.Closed)+" is those of --for and --for-file, and "+anyone+" is everyone\nalike, for networks without strangers "+
		"(default "+string(wire.Closed)+" with --for or --for-file,\nelse "+string(wire.Open)+")")
	f.Var(&a.actsFor, "for", "keep mail for these servers: a `LIST` of server names with commas\nbetween them")
	f.StringVar(&a.file, "for-file", "", "and for the servers in this `FILE`, which has one name in each line;\nit is read again on SIGHUP")
	a.invite.flags(f)
	f.Var(&a.promise, "promise", "the `SIZE` that a mailbox has in any case, in the modes "+string(wire.Open)+" and\n"+
		string(wire.Invite)+"; servers find room until half of --max-store is promised, or\nthree quarters with "+string(wire.Invite))
	f.Var((*perSecond)(&a.requests), "max-requests", "take this `NUMBER` of requests a second from one address, and of one\nserver, and five times that after a rest")
	f.Var((*perSecond)(&a.traffic), "max-traffic", "likewise this `SIZE` of bodies and answers a second, and 64 times that\nafter a rest")
	f.Var((*perSecond)(&a.stored), "max-stored", "likewise this `SIZE` of transactions that are kept, and 256 times that\nafter a rest")
}

// A perSecond is a pflag.Value: a size a second, or none.
type perSecond float64

// String implements pflag.Value.
func (n *perSecond) String() string { s := size(*n); return s.String() }

// Set implements pflag.Value.
func (n *perSecond) Set(text string) error {
	var s size
	err := s.Set(text)
	*n = perSecond(s)
	return err
}

// Type implements pflag.Value.
func (n *perSecond) Type() string { return "size" }

// promised is the room that a mailbox has in any case.
func (a *access) promised() policy.Size {
	return policy.Size{Bytes: int64(a.promise), Entries: max(int64(a.promise)/promisedEntry, 1)}
}

// promisedEntry is how large a transaction is of those that are promised.
const promisedEntry = 2 << 10

// check checks the flags, for a store with these limits.
func (a *access) check(storeEntries, storeBytes int64) error {
	listed := len(a.actsFor) > 0 || a.file != ""
	if a.mode == "" && listed {
		a.mode = string(wire.Closed)
	}
	if a.mode == "" {
		a.mode = string(wire.Open)
	}
	promises := a.mode == string(wire.Open) || a.mode == string(wire.Invite)
	switch {
	case !slices.Contains([]string{string(wire.Open), string(wire.Invite), string(wire.Closed), anyone}, a.mode):
		return fmt.Errorf("--mode: %q is not one of %s, %s, %s and %s", a.mode, wire.Open, wire.Invite, wire.Closed, anyone)
	case listed != (a.mode == string(wire.Closed)):
		return errors.New("--mode closed needs --for or --for-file, and these need it")
	case (a.invite != "") != (a.mode == string(wire.Invite)):
		return errors.New("--mode invite and --invite-key need each other")
	case a.promise < 0:
		return errors.New("--promise: none can't be promised")
	case promises && storeBytes > 0 && a.promised().Bytes > storeBytes/2:
		return errors.New("--promise is more than half of --max-store, so that no server would find room")
	case promises && storeEntries > 0 && a.promised().Entries > storeEntries/2:
		return errors.New("--promise has more transactions (of 2 KiB each) than half of --max-store-entries, so that no server would find room")
	}
	return nil
}

// policy makes the policy of the relay. Reload reads the list of servers again, nil if
// there is no file.
func (a *access) policy(name spec.ServerName, mail store.Store, blocks *policy.Blocklist) (p policy.Policy, reload func() error, err error) {
	mode, reload, err := a.modePolicy(name, mail)
	if err != nil {
		return nil, nil, err
	}
	owners, err := policy.NewOwners(policy.OwnersConfig{Store: mail, Mode: mode})
	if err != nil {
		return nil, nil, err
	}
	shares := policy.Shares{Requests: rateOf(a.requests, 5), Bytes: rateOf(a.traffic, 64), Stored: rateOf(a.stored, 256)}
	limits := policy.NewLimits(policy.LimitsConfig{Address: shares, Name: shares})
	return policy.All(blocks, limits, owners), reload, nil
}

// modePolicy makes the part of it that is the mode, nil in the mode anyone.
func (a *access) modePolicy(name spec.ServerName, mail store.Store) (mode policy.Policy, reload func() error, err error) {
	promise := a.promised()
	switch a.mode {
	case string(wire.Open):
		mode, err = policy.NewOpen(policy.OpenConfig{Store: mail, Promise: promise})
	case string(wire.Invite):
		var key []byte
		if key, err = a.invite.key(); err == nil {
			mode, err = policy.NewInvite(policy.InviteConfig{Store: mail, ServerName: name, Key: key, Promise: promise})
		}
	case string(wire.Closed):
		closed := policy.NewClosed()
		reload = func() error { return a.readList(closed) }
		mode, err = closed, reload()
	}
	if a.file == "" {
		reload = nil
	}
	return mode, reload, err
}

// rateOf is a rate, and after a rest that many times it.
func rateOf(perSecond float64, burst int) policy.Rate {
	if perSecond < 0 {
		return policy.Unlimited
	}
	return policy.Rate{PerSecond: perSecond, Burst: int(min(perSecond*float64(burst), 1<<40))}
}

// readList reads the file, and has a list of servers be those in it and on the
// command line.
func (a *access) readList(list *policy.Closed) error {
	servers := slices.Collect(maps.Keys(a.actsFor))
	if a.file != "" {
		more, err := policy.ReadList(a.file)
		if err != nil {
			return fmt.Errorf("--for-file: %w", err)
		}
		servers = append(servers, more...)
	}
	list.Set(servers)
	return nil
}

// errNoList says that there is nothing that SIGHUP could have read again.
var errNoList = errors.New("there is none to read: --for-file isn't given")

// reloadOnHangUp calls reload at each SIGHUP until stop is called. A list that can't be
// read changes nothing. Without a list SIGHUP does nothing either: else the reload of a
// service would end the relay.
func reloadOnHangUp(reload func() error, log *slog.Logger) (stop func()) {
	if reload == nil {
		reload = func() error { return errNoList }
	}
	hangUps := make(chan os.Signal, 1)
	signal.Notify(hangUps, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangUps:
			}
			if err := reload(); err != nil {
				log.Error("the list of servers stays as it was", "error", err)
			} else {
				log.Info("read the list of servers again")
			}
		}
	}()
	return func() {
		signal.Stop(hangUps)
		cancel()
		<-ended
	}
}
