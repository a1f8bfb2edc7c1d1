package client

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/wire"
)

// TestFinalAnswers goes over the whole table, and checks that it holds nothing
// but Matrix error codes, with a status that says that the request is at fault,
// and none that speaks of the sender or of the moment.
func TestFinalAnswers(t *testing.T) {
	for r, why := range final {
		require.NotEmpty(t, why)
		require.Contains(t, []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge}, r.status)
		require.NotContains(t, []spec.MatrixErrorCode{
			"", spec.ErrorUnknown, spec.ErrorUnrecognized, spec.ErrorForbidden, wire.ErrorUnauthorized, spec.ErrorLimitExceeded,
			spec.ErrorInvalidUsername, spec.ErrorNotFound, wire.ErrorResourceLimitExceeded, spec.ErrorMissingToken, spec.ErrorUnknownToken,
		}, r.code)
		require.Equal(t, Refused, judge("r", &wire.Error{Status: r.status, Code: r.code}).Verdict)
	}
	require.Len(t, final, 5)
}

// TestOtherAnswers checks that nothing else ends a transaction: every code with
// every status, and pages without a code.
func TestOtherAnswers(t *testing.T) {
	codes := []spec.MatrixErrorCode{
		"", "M_ODD", "m_bad_json", "M_BAD_JSON ", wire.ErrorUnauthorized, wire.ErrorTooLarge, wire.ErrorResourceLimitExceeded,
		spec.ErrorUnknown, spec.ErrorUnrecognized, spec.ErrorForbidden, spec.ErrorBadJSON, spec.ErrorNotJSON, spec.ErrorNotFound,
		spec.ErrorInvalidUsername, spec.ErrorInvalidSignature, spec.ErrorInvalidParam, spec.ErrorMissingParam, spec.ErrorLimitExceeded,
		spec.ErrorMissingToken, spec.ErrorUnknownToken, spec.ErrorServerNotTrusted, spec.ErrorUnsupportedRoomVersion,
	}
	for range 20 {
		codes = append(codes, spec.MatrixErrorCode(fmt.Sprintf("M_%X", rand.Uint32())))
	}
	ends := 0
	for status := 100; status < 1000; status++ {
		for _, code := range codes {
			verdict := judge("r", &wire.Error{Status: status, Code: code}).Verdict
			require.Contains(t, []Verdict{Refused, NoUse, Doubtful, Later, Unreachable}, verdict)
			if verdict == Refused {
				require.NotEmpty(t, final[refusal{status, code}], "%d %s", status, code)
				ends++
			}
		}
	}
	require.Equal(t, len(final), ends)
}
