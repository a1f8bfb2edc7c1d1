package wire

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseQuery(t *testing.T) {
	for query, want := range map[string]Query{
		"":                                   {},
		"?":                                  {},
		"?other=-1&other=x":                  {},
		"?limit=1":                           {Limit: 1},
		"?limit=50&after=7&timeout=1500":     {Limit: 50, After: 7, Timeout: 1500 * time.Millisecond},
		"?after=0&timeout=0":                 {},
		"?limit=9223372036854775807":         {Limit: maxLimit},
		"?timeout=9223372036854775807&x":     {Timeout: 24 * time.Hour},
		"?l%69mit=3&after=9007199254740993":  {Limit: 3, After: 9007199254740993},
		"?after=9223372036854775807&limit=+": {},
		"?limit=0":                           {},
		"?limit=-1":                          {},
		"?limit=":                            {},
		"?limit":                             {},
		"?limit=1.0":                         {},
		"?limit=1&limit=1":                   {},
		"?after=-1":                          {},
		"?after=0x1":                         {},
		"?after=9223372036854775808":         {},
		"?timeout=1s":                        {},
		"?timeout=NaN":                       {},
		"?limit=%zz":                         {},
		"?limit=1;after=2":                   {},
		"?bodies=0&limit=5":                  {Limit: 5, List: true},
		"?bodies=1&limit=5":                  {Limit: 5},
		"?ids=9,5,9":                         {IDs: []int64{5, 9}},
		"?ids=5%2C9007199254740992":          {IDs: []int64{5, 9007199254740992}},
		"?receipts=5&limit=2":                {Limit: 2}, // it is for others
		"?bodies=":                           {},
		"?bodies=2":                          {},
		"?bodies=0&bodies=0":                 {},
		"?ids=":                              {},
		"?ids=5,":                            {},
		"?ids=0":                             {},
		"?ids=-5":                            {},
		"?ids=5&ids=9":                       {},
		"?ids=5,9223372036854775808":         {},
		"?ids=" + strings.Repeat("1,", 200) + "1": {},
	} {
		got, err := parseQuery("/path" + query)
		if want.isEmpty() && len(query) > 1 && query != "?other=-1&other=x" && query != "?after=0&timeout=0" {
			var e *Error
			require.ErrorAs(t, err, &e, query)
			require.Equal(t, 400, e.Status)
			require.EqualValues(t, "M_INVALID_PARAM", e.Code)
			continue
		}
		require.NoError(t, err, query)
		require.Equal(t, want, got, query)
	}
}

func (q *Query) isEmpty() bool {
	return q.Limit == 0 && q.After == 0 && q.Timeout == 0 && !q.List && q.IDs == nil && !q.Receipts
}

func TestQueryEncode(t *testing.T) {
	require.Empty(t, Query{}.Encode())
	for _, q := range []Query{{Limit: 1}, {After: 5}, {Timeout: time.Second}, {Limit: 2, After: 3, Timeout: time.Minute}, {Limit: 500, List: true}, {Limit: 2, IDs: []int64{5, 9}}} {
		got, err := parseQuery("/path" + q.Encode())
		require.NoError(t, err)
		require.Equal(t, q, got)
	}
}
