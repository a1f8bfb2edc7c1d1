package notebook

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// The time of a note moves with the clock, and nothing else of it changes.
func TestShifted(t *testing.T) {
	for _, one := range []struct{ key, value, want string }{
		{"relay/claim/a", `{"asked":100}`, `{"asked":3700}`},
		{"relay/member/a", `{"asked":0}`, `{"asked":3600}`},
		{"relay/owned/a", `{"left":7,"mailbox":"m","policy":{"seq":1}}`, `{"left":3607,"mailbox":"m","policy":{"seq":1}}`},
		{"relay/owned/a", `{"mailbox":"m"}`, `{"mailbox":"m"}`},
		{"relay/record/a", `{"changed":1,"record":{"seq":9007199254740991,"signatures":{}}}`, `{"changed":3601,"record":{"seq":9007199254740991,"signatures":{}}}`},
		{"relay/receipt/a/b/1", `{"kept":5}`, `{"kept":3605}`},
		{"relay/receipts/a", `{"last":8,"looked":5}`, `{"last":8,"looked":3605}`},
		{"relay/record/a", "damaged", "damaged"},
		{"relay/block/a", `{"asked":1}`, `{"asked":1}`},
	} {
		got := Shifted(store.Note{Key: one.key, Value: []byte(one.value)}, time.Hour)
		require.Equal(t, one.want, string(got.Value))
		require.Equal(t, one.key, got.Key)
	}
}
