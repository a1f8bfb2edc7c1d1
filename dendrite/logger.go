package dendrite

import (
	"context"
	"log/slog"

	"github.com/sirupsen/logrus"
)

// A logHandler writes to logrus. Groups become prefixes of names.
type logHandler struct {
	entry  *logrus.Entry
	prefix string
}

// Enabled implements slog.Handler.
func (h logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return h.entry.Logger.IsLevelEnabled(logrusLevel(level))
}

// Handle implements slog.Handler.
func (h logHandler) Handle(ctx context.Context, record slog.Record) error {
	fields := make(logrus.Fields, record.NumAttrs())
	record.Attrs(func(a slog.Attr) bool {
		h.add(fields, a)
		return true
	})
	h.entry.WithContext(ctx).WithFields(fields).WithTime(record.Time).Log(logrusLevel(record.Level), record.Message)
	return nil
}

// WithAttrs implements slog.Handler.
func (h logHandler) WithAttrs(attributes []slog.Attr) slog.Handler {
	fields := make(logrus.Fields, len(attributes))
	for _, a := range attributes {
		h.add(fields, a)
	}
	h.entry = h.entry.WithFields(fields)
	return h
}

// WithGroup implements slog.Handler.
func (h logHandler) WithGroup(name string) slog.Handler {
	if name != "" {
		h.prefix += name + "."
	}
	return h
}

func (h logHandler) add(fields logrus.Fields, a slog.Attr) {
	value := a.Value.Resolve()
	if value.Kind() != slog.KindGroup {
		if a.Key != "" {
			fields[h.prefix+a.Key] = value.Any()
		}
		return
	}
	group := h.WithGroup(a.Key).(logHandler)
	for _, inner := range value.Group() {
		group.add(fields, inner)
	}
}

func logrusLevel(level slog.Level) logrus.Level {
	switch {
	case level >= slog.LevelError:
		return logrus.ErrorLevel
	case level >= slog.LevelWarn:
		return logrus.WarnLevel
	case level >= slog.LevelInfo:
		return logrus.InfoLevel
	}
	return logrus.DebugLevel
}
