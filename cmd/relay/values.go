package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// none is the word of the limits below for no limit; package relay has a negative
// number for it.
const none = "none"

// A count is a pflag.Value: a positive number, or none.
type count int64

// A size is a pflag.Value: a positive number of bytes, or none.
type size int64

// A lifetime is a pflag.Value: a positive duration, in days too, or none.
type lifetime time.Duration

var (
	_ pflag.Value = (*count)(nil)
	_ pflag.Value = (*size)(nil)
	_ pflag.Value = (*lifetime)(nil)
)

var errNotPositive = errors.New("must be more than 0, or " + none)

// String implements pflag.Value.
func (c *count) String() string {
	if *c < 0 {
		return none
	}
	return strconv.FormatInt(int64(*c), 10)
}

// Set implements pflag.Value.
func (c *count) Set(s string) error {
	n, err := parseUnits(s, nil)
	*c = count(n)
	return err
}

// Type implements pflag.Value.
func (c *count) Type() string { return "number" }

var sizeUnits = []unit{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}}

// String implements pflag.Value.
func (n *size) String() string {
	if *n < 0 {
		return none
	}
	text := strconv.FormatInt(int64(*n), 10)
	for _, u := range sizeUnits {
		if *n > 0 && int64(*n)%u.factor == 0 {
			text = strconv.FormatInt(int64(*n)/u.factor, 10) + u.name
		}
	}
	return text
}

// Set implements pflag.Value.
func (n *size) Set(s string) error {
	bytes, err := parseUnits(s, sizeUnits)
	*n = size(bytes)
	return err
}

// Type implements pflag.Value.
func (n *size) Type() string { return "size" }

// String implements pflag.Value.
func (l *lifetime) String() string {
	const day = lifetime(24 * time.Hour)
	switch {
	case *l < 0:
		return none
	case *l > 0 && *l%day == 0:
		return fmt.Sprintf("%dd", *l/day)
	}
	return time.Duration(*l).String()
}

// Set implements pflag.Value.
func (l *lifetime) Set(s string) error {
	if s == none || strings.HasSuffix(s, "d") {
		n, err := parseUnits(s, []unit{{"d", int64(24 * time.Hour)}})
		*l = lifetime(n)
		return err
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return errors.New("not a duration")
	}
	if d <= 0 {
		return errNotPositive
	}
	*l = lifetime(d)
	return nil
}

// Type implements pflag.Value.
func (l *lifetime) Type() string { return "duration" }

// A unit is one that may stand behind a number.
type unit struct {
	name   string
	factor int64
}

// parseUnits reads a positive integer with one of the units or without, or
// none, which is -1.
func parseUnits(s string, units []unit) (int64, error) {
	if s == none {
		return -1, nil
	}
	factor := int64(1)
	for _, u := range units {
		if number, ok := strings.CutSuffix(s, u.name); ok {
			s, factor = number, u.factor
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err != nil:
		return 0, errors.New("not a whole number")
	case n <= 0:
		return 0, errNotPositive
	case n > math.MaxInt64/factor:
		return 0, errors.New("too large")
	}
	return n * factor, nil
}
