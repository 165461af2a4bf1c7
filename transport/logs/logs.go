// Package logs sends the engine's log to log/slog, for a bot that does not use
// zerolog:
//
//	machine.Config{Log: logs.To(slog.Default().Handler()), …}
package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/rs/zerolog"
)

// Levels beyond those of slog.
const (
	LevelTrace = slog.LevelDebug - 4
	LevelFatal = slog.LevelError + 4 // also for panics
)

// To returns a logger whose lines go to h. Lines that h does not accept by their
// level are not even formatted. Each field becomes one attribute, in order.
// Durations become numbers of milliseconds; objects and lists become what
// encoding/json makes of them. Records have no context and no source.
func To(h slog.Handler) zerolog.Logger {
	return zerolog.New(writer{h}).Sample(writer{h})
}

type writer struct{ h slog.Handler }

// Sample implements zerolog.Sampler.
func (w writer) Sample(l zerolog.Level) bool {
	return w.h.Enabled(context.Background(), level(l))
}

// Write implements io.Writer. It handles a line without a level.
func (w writer) Write(line []byte) (int, error) { return w.WriteLevel(zerolog.NoLevel, line) }

// WriteLevel implements zerolog.LevelWriter.
func (w writer) WriteLevel(l zerolog.Level, line []byte) (int, error) {
	fields, err := read(line)
	if err != nil {
		return 0, fmt.Errorf("log line: %w", err)
	}
	record := slog.NewRecord(time.Now(), level(l), "", 0)
	for _, f := range fields {
		switch f.Key {
		case zerolog.MessageFieldName:
			record.Message = f.Value.String()
		case zerolog.LevelFieldName, zerolog.TimestampFieldName:
		default:
			record.AddAttrs(f)
		}
	}
	if err := w.h.Handle(context.Background(), record); err != nil {
		return 0, fmt.Errorf("log line: %w", err)
	}
	return len(line), nil
}

// read returns the members of one JSON object, in their order.
func read(line []byte) ([]slog.Attr, error) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	open, err := d.Token()
	if err != nil {
		return nil, err
	}
	if open != json.Delim('{') {
		return nil, errors.New("no JSON object")
	}
	var fields []slog.Attr
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		var value any
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		fields = append(fields, slog.Any(fmt.Sprint(name), plain(value)))
	}
	return fields, nil
}

// plain converts a number to one that slog knows. It returns any other value
// unchanged.
func plain(value any) any {
	n, ok := value.(json.Number)
	if !ok {
		return value
	}
	if i, err := n.Int64(); err == nil {
		return i
	}
	if f, err := n.Float64(); err == nil {
		return f
	}
	return n.String()
}

func level(l zerolog.Level) slog.Level {
	switch l {
	case zerolog.TraceLevel:
		return LevelTrace
	case zerolog.DebugLevel:
		return slog.LevelDebug
	case zerolog.WarnLevel:
		return slog.LevelWarn
	case zerolog.ErrorLevel:
		return slog.LevelError
	case zerolog.FatalLevel, zerolog.PanicLevel:
		return LevelFatal
	default: // InfoLevel, NoLevel
		return slog.LevelInfo
	}
}
