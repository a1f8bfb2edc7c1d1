package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
)

// TestStrangersAreTriedSeldom: for any names that a sender makes up for an address,
// a month of mail for them is a few connections to it.
func TestStrangersAreTriedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStrangers()
		const month = 30 * 24 * time.Hour
		victim, network := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1")
		tried := map[bool]int{}
		for begin, port := time.Now(), uint16(0); time.Since(begin) < month; port++ {
			name := spec.ServerName(fmt.Sprintf("203.0.113.1:%d", port))
			if s.permit(s.visit(t.Context(), name), netip.AddrPortFrom(victim, port)) == nil {
				tried[true]++
			}
			inNetwork := network.As16()
			inNetwork[15] = byte(port)
			if s.permit(s.visit(t.Context(), name), netip.AddrPortFrom(netip.AddrFrom16(inNetwork), port)) == nil {
				tried[false]++
			}
			time.Sleep(time.Minute)
		}
		for _, times := range tried {
			require.Greater(t, times, 30, "it's tried still")
			require.LessOrEqual(t, times, 45)
		}
		require.Len(t, s.gaps, 2, "a network of IPv6 is one host")

		refused := s.permit(s.visit(t.Context(), "203.0.113.1:9"), netip.AddrPortFrom(victim, 9))
		require.ErrorContains(t, refused, "left alone")
		s.meet("203.0.113.1:9")
		for range 100 {
			require.NoError(t, s.permit(s.visit(t.Context(), "203.0.113.1:9"), netip.AddrPortFrom(victim, 9)), "it is known")
			require.NoError(t, s.permit(t.Context(), netip.AddrPortFrom(victim, 9)), "keys are another matter")
		}
		other := s.visit(t.Context(), "other.example")
		for range 10 {
			require.NoError(t, s.permit(other, netip.MustParseAddrPort("203.0.113.2:443")), "one visit, another address")
		}
	})
}

func TestStrangersAreBounded(t *testing.T) {
	s := newStrangers()
	for i := range maxKnown + 100 {
		s.meet(spec.ServerName(fmt.Sprintf("s%d.example", i)))
		address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{1, byte(i >> 16), byte(i >> 8), byte(i)}), 1)
		require.NoError(t, s.permit(s.visit(t.Context(), "stranger.example"), address))
	}
	require.Len(t, s.known, maxKnown)
	require.Len(t, s.gaps, maxAddresses)
}

// TestMadeUpDestinations: the connections are those that are counted, and
// servers that show that they are there are free of it.
func TestMadeUpDestinations(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	var accepted atomic.Int32
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			_ = conn.Close()
		}
	}()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	s := newStrangers()
	network := (&options{keys: keysAny}).network(s)
	defer network.CloseIdleConnections()
	roads := newRoads(nil, network, s)
	visit := func(server string) error {
		request, err := http.NewRequestWithContext(context.Background(), http.MethodPut, "matrix://"+server+"/", nil)
		require.NoError(t, err)
		_, err = roads.RoundTrip(request)
		require.Error(t, err, "it speaks no TLS")
		return err
	}
	first := visit("127.0.0.1:" + port)
	require.NotContains(t, first.Error(), "left alone")
	for _, name := range []string{"127.0.0.1:", "[::ffff:127.0.0.1]:"} {
		for range 5 {
			require.ErrorContains(t, visit(name+port), "left alone")
		}
	}
	require.Eventually(t, func() bool { return accepted.Load() == 1 }, patience, time.Millisecond)

	s.meet(spec.ServerName("127.0.0.1:" + port))
	require.NotContains(t, visit("127.0.0.1:"+port).Error(), "left alone")
}

// TestKnownServers: the operator, the server itself and its taking mail make it
// known.
func TestKnownServers(t *testing.T) {
	mail, s := memory.New(memory.Options{}), newStrangers()
	defer func() { require.NoError(t, mail.Close()) }()
	o := &options{keys: keysNone}
	require.NoError(t, o.pass.to.Set("listed.example"))
	require.NoError(t, o.pass.to.Set(everyone))
	o.pass.relaysOf = relayTable{"b.example": {"r.example"}}
	p, err := startPassing(t.Context(), o, relaytest.NewNode("first").SigningIdentity, mail, newRoads(nil, nil, s), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	var config relay.Config
	p.listenTo(&config)
	config.Stored("stored.example")
	config.Asked("asks.example")
	require.NoError(t, p.close())
	p.learn(client.Event{Destination: "refuses.example", Result: client.ResultRefused})
	p.learn(client.Event{Destination: "takes.example", Result: client.ResultDelivered})
	require.ElementsMatch(t, []spec.ServerName{"listed.example", "b.example", "r.example", "asks.example", "takes.example"}, slices.Collect(maps.Keys(s.known)))
}
