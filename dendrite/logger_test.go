package dendrite

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"testing/slogtest"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
)

// TestLogger has the standard library check the handler. Groups, which logrus doesn't
// have, are taken out of the names again.
func TestLogger(t *testing.T) {
	var log bytes.Buffer
	slogtest.Run(t, func(*testing.T) slog.Handler {
		log.Reset()
		logger := logrus.New()
		logger.Out, logger.Formatter = &log, &logrus.JSONFormatter{FieldMap: logrus.FieldMap{logrus.FieldKeyTime: slog.TimeKey, logrus.FieldKeyMsg: slog.MessageKey}}
		return logHandler{entry: logrus.NewEntry(logger)}
	}, func(t *testing.T) map[string]any {
		var flat map[string]any
		require.NoError(t, json.Unmarshal(log.Bytes(), &flat), log.String())
		if strings.HasSuffix(t.Name(), "/zero-time") {
			delete(flat, slog.TimeKey) // logrus writes the time of now then
		}
		nested := make(map[string]any)
		for name, value := range maps.All(flat) {
			group := nested
			for strings.Contains(name, ".") {
				var first string
				first, name, _ = strings.Cut(name, ".")
				if group[first] == nil {
					group[first] = make(map[string]any)
				}
				group = group[first].(map[string]any)
			}
			group[name] = value
		}
		return nested
	})
}

func TestLogLevels(t *testing.T) {
	var log bytes.Buffer
	logger := logrus.New()
	logger.Out, logger.Level = &log, logrus.WarnLevel
	to := slog.New(logHandler{entry: logrus.NewEntry(logger)})
	to.Debug("one")
	to.Info("two")
	require.Empty(t, log.String())
	to.Warn("three")
	to.Error("four")
	require.Contains(t, log.String(), "level=warning msg=three")
	require.Contains(t, log.String(), "level=error msg=four")
}
