package postgres

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/matrixrelay/relay/store"
)

// wrap adds the action, the reason and the remedy to an error, where that is
// known.
func wrap(doing string, err error) error {
	if isDiskFull(err) {
		return fmt.Errorf("postgres: %s: %w: %w", doing, store.ErrFull, err)
	}
	if why := reason(err); why != "" {
		return fmt.Errorf("postgres: %s: %s: %w", doing, why, err)
	}
	return fmt.Errorf("postgres: %s: %w", doing, err)
}

// reason is in plain words why the server refuses.
func reason(err error) string {
	switch {
	case isDamage(err):
		return "something is damaged on the server's disk; REINDEX SCHEMA mends it if that is an index"
	case code(err) == "25006":
		return "the server can only be read, as a standby can"
	case code(err) == "42501":
		return "the relay lacks a right"
	case code(err) == "3D000":
		return "the database is gone"
	case isGone(err) && !errors.Is(err, errGone):
		return errGone.Error()
	}
	return ""
}

// code is the SQLSTATE that the server answered, empty if it didn't.
func code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func isDiskFull(err error) bool { return code(err) == "53100" }

// isPassing reports whether a transaction may succeed if it is tried again: the
// server ended it for the sake of another one or because it stops, or didn't
// answer, or isn't the one that writes.
func isPassing(err error) bool {
	if errors.Is(err, errCommit) || errors.Is(err, errFsync) {
		return false
	}
	if isStandby(err) {
		return true
	}
	switch state := code(err); state {
	case "": // the connection, or one of our own errors
		return true
	case "40001", // serialization failure
		"40P01",                   // deadlock
		"55P03",                   // lock timeout
		"25P03", "25P04", "57P05", // idle, or in a transaction, for too long
		"53300",                   // too many connections
		"57014",                   // canceled
		"57P01", "57P02", "57P03": // stops, crashed, starts
		return true
	default:
		return strings.HasPrefix(state, "08") // connection exceptions
	}
}

// isStandby reports that the connection leads to a server that only repeats another
// one, or that a plan that it keeps is out of date: it is no use, and another may be
// better.
func isStandby(err error) bool { return code(err) == "0A000" || code(err) == "25006" }

// isRefusal reports whether the server refuses a statement, which may be
// the fault of one part of it: a value that is too large, for example.
func isRefusal(err error) bool {
	if errors.As(err, new(*pgconn.ConnectError)) {
		return false
	}
	return code(err) != "" && !isDiskFull(err) && !isPassing(err)
}

// isDamage reports whether the server can't read its own data. Its
// internal errors (XX000) count, since that is how it calls some damage.
func isDamage(err error) bool { return strings.HasPrefix(code(err), "XX") }
