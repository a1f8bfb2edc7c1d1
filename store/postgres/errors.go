package postgres

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/matrixrelay/relay/store"
)

// wrap says what was being done, and that the disk is full if that is why.
func wrap(doing string, err error) error {
	if isDiskFull(err) {
		return fmt.Errorf("postgres: %s: %w: %w", doing, store.ErrFull, err)
	}
	return fmt.Errorf("postgres: %s: %w", doing, err)
}

// code is the SQLSTATE that the server answered, empty if it didn't.
func code(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

func isDiskFull(err error) bool { return code(err) == "53100" }

// isPassing reports whether a transaction may succeed if it is tried again: the
// server ended it for the sake of another one or because it stops, or didn't
// answer.
func isPassing(err error) bool {
	if errors.Is(err, errCommit) || errors.Is(err, errFsync) {
		return false
	}
	switch state := code(err); state {
	case "": // the connection, or one of our own errors
		return true
	case "40001", // serialization failure
		"40P01",                   // deadlock
		"55P03",                   // lock timeout
		"25P03",                   // idle for too long in a transaction
		"53300",                   // too many connections
		"57014",                   // canceled
		"57P01", "57P02", "57P03": // stops, crashed, starts
		return true
	default:
		return strings.HasPrefix(state, "08") // connection exceptions
	}
}

// isRefusal reports whether the server refuses what it was told, which may be
// the fault of one part of it: a value that is too large, for example.
func isRefusal(err error) bool {
	switch state := code(err); {
	case state == "" || isDiskFull(err) || isPassing(err):
		return false
	default:
		return true
	}
}

// isDamage reports whether the server can't read what it has written.
func isDamage(err error) bool { return strings.HasPrefix(code(err), "XX") }
