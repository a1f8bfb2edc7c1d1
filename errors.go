package relay

import (
	"fmt"
	"net/http"
	"time"

	"github.com/matrixrelay/relay/wire"
)

// Errors of several stages.

func tooLarge(limit int64) error {
	return &wire.Error{
		Status: http.StatusRequestEntityTooLarge, Code: wire.ErrorTooLarge,
		Message: fmt.Sprintf("the body is larger than %d bytes", limit),
	}
}

var errNoMemory = error(wire.LimitExceeded("too much is in flight at once", time.Second))
