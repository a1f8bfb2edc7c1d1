package wire

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A Query is the query of a RelayTxn request. Deployed nodes don't send one, and
// deployed relays ignore it. The zero value asks for nothing.
type Query struct {
	// Limit asks for a batch of up to that many transactions. 0: one, and no
	// batch. A relay may give fewer.
	Limit int

	// After asks for the entries that follow that one, so that the next batch can be
	// fetched before the last is acknowledged.
	After int64

	// Timeout is how long the answer may be held while there is no mail, in
	// whole milliseconds. A relay may hold it for less.
	Timeout time.Duration
}

// ParseQuery reads the query of a URI from SignedURI. Parameters that aren't
// known are passed over. The error is an *Error, 400 M_INVALID_PARAM.
func ParseQuery(uri string) (Query, error) {
	_, raw, _ := strings.Cut(uri, "?")
	if raw == "" {
		return Query{}, nil
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return Query{}, BadRequest(spec.ErrorInvalidParam, "the query can't be read")
	}
	var numbers [3]int64
	for i, name := range []string{"limit", "after", "timeout"} {
		if numbers[i], err = number(values, name); err != nil {
			return Query{}, err
		}
	}
	if values.Has("limit") && numbers[0] == 0 {
		return Query{}, BadRequest(spec.ErrorInvalidParam, "limit must be at least 1")
	}
	return Query{
		Limit: int(min(numbers[0], maxLimit)), After: numbers[1],
		Timeout: time.Duration(min(numbers[2], maxTimeoutMS)) * time.Millisecond,
	}, nil
}

// More than any relay gives; without them numbers would overflow.
const (
	maxLimit     = 1 << 20
	maxTimeoutMS = 24 * 60 * 60 * 1000
)

// number reads a parameter, 0 if it isn't there.
func number(values url.Values, name string) (int64, error) {
	switch list := values[name]; len(list) {
	case 0:
		return 0, nil
	case 1:
		if n, err := strconv.ParseUint(list[0], 10, 63); err == nil {
			return int64(n), nil
		}
	}
	return 0, BadRequest(spec.ErrorInvalidParam, fmt.Sprintf("%s must be one whole number that isn't negative", name))
}

// Encode returns the query with its question mark, empty if it asks nothing.
func (q Query) Encode() string {
	values := url.Values{}
	for name, n := range map[string]int64{"limit": int64(q.Limit), "after": q.After, "timeout": q.Timeout.Milliseconds()} {
		if n > 0 {
			values.Set(name, strconv.FormatInt(n, 10))
		}
	}
	if len(values) == 0 {
		return ""
	}
	return "?" + values.Encode()
}
