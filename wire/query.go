package wire

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A Query is the query of a RelayTxn request; of other requests it has a part. Deployed
// nodes don't send one, and deployed relays ignore it. The zero value asks for nothing.
type Query struct {
	// Limit asks for a batch of up to that many transactions. 0: one, and no
	// batch. A relay may give fewer.
	Limit int

	// After asks for the entries that follow that one, so that the next batch can be
	// fetched before the last is acknowledged. Of receipts it is the number of one.
	After int64

	// Timeout is how long the answer may be held while there is no mail, in
	// whole milliseconds. A relay may hold it for less.
	Timeout time.Duration

	// List asks for a list of the entries, without their transactions: see
	// Answer.IsListed. IDs, up to MaxIDs, asks for just these entries, and not for the
	// oldest ones; those that are gone are left out of the answer, and it isn't held.
	List bool
	IDs  []int64

	// Receipts asks, in a SendRelay request, for the receipts after After: see
	// ReceiptsQuery.
	Receipts bool
}

// MaxIDs bounds Query.IDs.
const MaxIDs = 200

// parseQuery reads the query of a URI from SignedURI. Parameters that aren't
// known are passed over. The error is an *Error, 400 M_INVALID_PARAM.
func parseQuery(uri string) (Query, error) {
	values, err := queryOf(uri)
	if err != nil || len(values) == 0 {
		return Query{}, err
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
	q := Query{
		Limit: int(min(numbers[0], maxLimit)), After: numbers[1],
		Timeout: time.Duration(min(numbers[2], maxTimeoutMS)) * time.Millisecond,
	}
	if q.List, err = isList(values["bodies"]); err != nil {
		return Query{}, err
	}
	if q.IDs, err = readIDs(values["ids"]); err != nil {
		return Query{}, err
	}
	return q, nil
}

// queryOf returns the parameters of a URI. The error is an *Error, 400.
func queryOf(uri string) (url.Values, error) {
	_, raw, _ := strings.Cut(uri, "?")
	if raw == "" {
		return nil, nil
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, BadRequest(spec.ErrorInvalidParam, "the query can't be read")
	}
	return values, nil
}

// parseSendQuery reads the query of a SendRelay request.
func parseSendQuery(uri string) (q Query, err error) {
	values, err := queryOf(uri)
	if err != nil || len(values) == 0 {
		return Query{}, err
	}
	q.Receipts = values.Has("receipts")
	if q.After, err = number(values, "receipts"); err != nil {
		return Query{}, err
	}
	return q, nil
}

// isList reads the parameter bodies.
func isList(values []string) (bool, error) {
	switch {
	case len(values) == 0:
		return false, nil
	case len(values) == 1 && (values[0] == "0" || values[0] == "1"):
		return values[0] == "0", nil
	}
	return false, BadRequest(spec.ErrorInvalidParam, "bodies must be 0 or 1")
}

// readIDs reads the parameter ids. The IDs come in order, each once.
func readIDs(values []string) (ids []int64, err error) {
	if len(values) == 0 {
		return nil, nil
	}
	texts := strings.SplitN(values[0], ",", MaxIDs+1)
	if len(values) > 1 || len(texts) > MaxIDs {
		return nil, BadRequest(spec.ErrorInvalidParam, fmt.Sprintf("ids must be one list of at most %d", MaxIDs))
	}
	for _, text := range texts {
		id, err := strconv.ParseInt(text, 10, 64)
		if err != nil || id < 1 {
			return nil, BadRequest(spec.ErrorInvalidParam, "ids must be entry IDs, with commas between them")
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
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

// Encode returns the query of a RelayTxn request with its question mark, empty if it asks
// nothing.
func (q Query) Encode() string {
	values := url.Values{}
	for name, n := range map[string]int64{"limit": int64(q.Limit), "after": q.After, "timeout": q.Timeout.Milliseconds()} {
		if n > 0 {
			values.Set(name, strconv.FormatInt(n, 10))
		}
	}
	if q.List {
		values.Set("bodies", "0")
	}
	if len(q.IDs) > 0 {
		texts := make([]string, len(q.IDs))
		for i, id := range q.IDs {
			texts[i] = strconv.FormatInt(id, 10)
		}
		values.Set("ids", strings.Join(texts, ","))
	}
	if len(values) == 0 {
		return ""
	}
	return "?" + values.Encode()
}
