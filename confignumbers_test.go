package relay

import (
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestZeroAndNegative has one rule for all numbers of Config: zero is the default,
// negative is none or no limit. A field that isn't in the table fails.
func TestZeroAndNegative(t *testing.T) {
	const unlimited = 1 << 40
	none, forever := -1, time.Duration(-1) // for those below Config
	rules := map[string]struct{ zero, negative any }{
		"OriginShare":      {DefaultOriginShare, 1.0},
		"MaxBodyBytes":     {int64(DefaultMaxBodyBytes), int64(unlimited)},
		"MaxEntries":       {int64(DefaultMaxEntries), int64(none)},
		"MaxBytes":         {int64(DefaultMaxBytes), int64(none)},
		"MaxStoreEntries":  {int64(DefaultMaxStoreEntries), int64(none)},
		"MaxStoreBytes":    {int64(DefaultMaxStoreBytes), int64(none)},
		"Lifetime":         {DefaultLifetime, forever},
		"MaxInFlightBytes": {int64(DefaultMaxInFlightBytes), int64(unlimited)},
		"MaxBatch":         {DefaultMaxBatch, 1<<31 - 1},
		"MaxBatchBytes":    {int64(DefaultMaxBatchBytes), int64(DefaultMaxInFlightBytes / 4)},
		"MaxWait":          {DefaultMaxWait, time.Duration(none)},
		"MaxWaiting":       {DefaultMaxWaiting, none},
		"MaxRecords":       {DefaultMaxRecords, none},
		"MaxReceipts":      {DefaultMaxReceipts, none},
	}
	of := reflect.TypeFor[Config]()
	for i := range of.NumField() {
		field := of.Field(i)
		if k := field.Type.Kind(); k < reflect.Int || k > reflect.Float64 {
			continue
		}
		rule, ok := rules[field.Name]
		require.True(t, ok, "%s isn't in the table", field.Name)
		delete(rules, field.Name)
		for given, want := range map[int]any{0: rule.zero, -1: rule.negative} {
			c := Config{ServerName: "relay.example"}
			value := reflect.ValueOf(&c).Elem().Field(i)
			value.Set(reflect.ValueOf(given).Convert(field.Type))
			c, err := c.withDefaults()
			require.NoError(t, err)
			require.Equal(t, want, reflect.ValueOf(c).Field(i).Interface(), "%s = %d", field.Name, given)
		}
	}
	require.Empty(t, rules, "they are no fields")
	require.Zero(t, (&Config{MaxEntries: -1, MaxBytes: -1, OriginShare: 1}).limits().OriginEntries)
}
