package client

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// A rule has the values that zero and a negative number stand for in a field of a Config.
type rule struct{ zero, negative any }

var rules = map[string]rule{
	"CallerConfig.Timeout":        {DefaultTimeout, defaults.Forever},
	"CallerConfig.MaxAnswerBytes": {int64(DefaultMaxAnswerBytes), int64(math.MaxInt64)},

	"SenderConfig.AttemptsBeforeOffline": {DefaultAttemptsBeforeOffline, noLimit},
	"SenderConfig.DirectTimeout":         {DefaultDirectTimeout, defaults.Forever},
	"SenderConfig.RelayTimeout":          {DefaultRelayTimeout, defaults.Forever},
	"SenderConfig.MaxBackground":         {DefaultMaxBackground, 0},
	"SenderConfig.RelayBackoff.First":    {DefaultFirstBackoff, time.Duration(-1)},
	"SenderConfig.RelayBackoff.Most":     {DefaultMostBackoff, defaults.Forever},

	"OutboxConfig.Limits.Entries":       {int64(DefaultOutboxEntries), int64(0)},
	"OutboxConfig.Limits.Bytes":         {int64(DefaultOutboxBytes), int64(0)},
	"OutboxConfig.Limits.StoreEntries":  {int64(DefaultOutboxStoreEntries), int64(0)},
	"OutboxConfig.Limits.StoreBytes":    {int64(DefaultOutboxStoreBytes), int64(0)},
	"OutboxConfig.Limits.OriginEntries": {int64(0), int64(0)},
	"OutboxConfig.Limits.OriginBytes":   {int64(0), int64(0)},
	"OutboxConfig.KeepRelayed":          {DefaultKeepRelayed, 0},
	"OutboxConfig.MaxAge":               {DefaultMaxAge, defaults.Forever},
	"OutboxConfig.Workers":              {DefaultWorkers, noLimit / int(classes)},
	"OutboxConfig.Backoff.First":        {DefaultFirstBackoff, DefaultFirstBackoff},
	"OutboxConfig.Backoff.Most":         {DefaultMostBackoff, defaults.Forever},

	"ReceiverConfig.KeyPatience":   {DefaultKeyPatience, time.Duration(-1)},
	"ReceiverConfig.MaxAge":        {time.Duration(0), time.Duration(-1)}, // no bound
	"ReceiverConfig.PollInterval":  {DefaultPollInterval, defaults.Forever},
	"ReceiverConfig.Wait":          {DefaultWait, time.Duration(-1)},
	"ReceiverConfig.Backoff.First": {DefaultFirstBackoff, DefaultFirstBackoff},
	"ReceiverConfig.Backoff.Most":  {DefaultMostBackoff, defaults.Forever},
}

// TestZeroAndNegative has one rule for all numbers in all Configs: zero is the
// default, negative is none or no limit. A field that isn't in the table fails.
func TestZeroAndNegative(t *testing.T) {
	mail := memory.New(memory.Options{})
	defer func() { require.NoError(t, mail.Close()) }()
	caller := newRulesCaller(t, CallerConfig{})
	sender := func(c SenderConfig) *Sender {
		c.Caller, c.Peers = caller, NewPeers()
		made, err := NewSender(c)
		require.NoError(t, err)
		return made
	}
	var known []string
	known = append(known, requireRules(t, func(c CallerConfig) CallerConfig { return newRulesCaller(t, c).config })...)
	known = append(known, requireRules(t, func(c SenderConfig) SenderConfig { return sender(c).config })...)
	known = append(known, requireRules(t, func(c OutboxConfig) OutboxConfig {
		c.Sender, c.Store = sender(SenderConfig{}), mail
		made, err := loadOutbox(t.Context(), c)
		require.NoError(t, err)
		require.NoError(t, made.Close())
		return made.config
	})...)
	known = append(known, requireRules(t, func(c ReceiverConfig) ReceiverConfig {
		c.Caller, c.Peers, c.Handle = caller, NewPeers(), func(context.Context, Received) error { return nil }
		made, err := NewReceiver(c)
		require.NoError(t, err)
		return made.config
	})...)
	for name := range rules {
		require.Contains(t, known, name, "it is in no Config")
	}
	require.Equal(t, DefaultMaxHistory, NewHistory(0).most)
	require.Equal(t, math.MaxInt, NewHistory(-1).most)
}

func TestNames(t *testing.T) {
	require.Equal(t, "no proof, unchecked, proven, ProofStatus(7)", fmt.Sprintf("%v, %v, %v, %v", NoProof, Unchecked, Proven, ProofStatus(7)))
	require.Equal(t, "untried, unreachable, Verdict(-1)", fmt.Sprintf("%v, %v, %v", Untried, Unreachable, Verdict(-1)))
	require.Equal(t, "delivered all", fmt.Sprint(ResultDelivered, " ", GivenAll))
}

func newRulesCaller(t *testing.T, c CallerConfig) *Caller {
	c.Identity, c.Transport = relaytest.NewNode("a").SigningIdentity, relaytest.NewNetwork()
	made, err := NewCaller(c)
	require.NoError(t, err)
	return made
}

// requireRules sets each number of a Config to zero and below, and requires the
// table's values. It returns their names.
func requireRules[C any](t *testing.T, normal func(C) C) (names []string) {
	var zero C
	of := reflect.TypeOf(zero)
	for _, path := range numbersOf(of, nil) {
		name := of.Name()
		for i := range path {
			name += "." + of.FieldByIndex(path[:i+1]).Name
		}
		want, ok := rules[name]
		require.True(t, ok, "%s isn't in the table", name)
		for given, want := range map[int64]any{0: want.zero, -1: want.negative} {
			var c C
			reflect.ValueOf(&c).Elem().FieldByIndex(path).SetInt(given)
			require.Equal(t, want, reflect.ValueOf(normal(c)).FieldByIndex(path).Interface(), "%s = %d", name, given)
		}
		names = append(names, name)
	}
	return names
}

// numbersOf are the number fields of a struct, and of Backoff and Limits in it.
func numbersOf(of reflect.Type, above []int) (paths [][]int) {
	for i := range of.NumField() {
		field, path := of.Field(i).Type, append(slices.Clone(above), i)
		switch {
		case field == reflect.TypeFor[Backoff](), field == reflect.TypeFor[store.Limits]():
			paths = append(paths, numbersOf(field, path)...)
		case field.Kind() >= reflect.Int && field.Kind() <= reflect.Float64:
			paths = append(paths, path)
		}
	}
	return paths
}

// A time-out that is as long as can be leaves room for the time of an answer that is
// held.
func TestLongestTimeout(t *testing.T) {
	node := relaytest.NewNode("b")
	c, err := NewCaller(CallerConfig{Identity: node.SigningIdentity, Transport: http.DefaultTransport, Timeout: math.MaxInt64})
	require.NoError(t, err)
	require.Positive(t, c.config.Timeout+DefaultWait)
}
