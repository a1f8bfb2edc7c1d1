package relay_test

import (
	"math"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
)

func TestConfig(t *testing.T) {
	for name, config := range map[string]relay.Config{
		"no name":      {},
		"bad name":     {ServerName: "a b"},
		"share":        {ServerName: "a", OriginShare: 1.5},
		"not a number": {ServerName: "a", OriginShare: math.NaN()},
		"not local":    {ServerName: "a", IsLocalServerName: func(spec.ServerName) bool { return false }},
		"no directory": {ServerName: "a", DatabasePath: t.TempDir() + "/not/there.db"},
	} {
		_, err := relay.New(config)
		require.Error(t, err, name)
	}
}
