package logs_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/transport/logs"
)

// text is a handler that leaves out the time of a record.
func text(out *bytes.Buffer, level slog.Leveler) slog.Handler {
	return slog.NewTextHandler(out, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
			return slog.Attr{}
		}
		return a
	}})
}

func TestFields(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := logs.To(text(&out, logs.LevelTrace)).With().Timestamp().Str("bot", "b").Logger()
	log.Warn().Str("user", "29:1").Int64("n", 1<<62+1).Dur("took", 1500*time.Microsecond).Bool("ok", true).
		Err(errors.New("broken")).Strs("list", []string{"a"}).Msg("it failed")
	log.Trace().Msg("")
	log.Log().Msg("without a level")
	const want = `level=WARN msg="it failed" bot=b user=29:1 n=4611686018427387905 took=1.5 ok=true error=broken list=[a]
level=DEBUG-4 msg="" bot=b
level=INFO msg="without a level" bot=b
`
	if got := out.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestLevels(t *testing.T) {
	t.Parallel()
	for from, to := range map[zerolog.Level]string{
		zerolog.DebugLevel: "DEBUG", zerolog.InfoLevel: "INFO", zerolog.ErrorLevel: "ERROR", zerolog.FatalLevel: "ERROR+4",
	} {
		var out bytes.Buffer
		log := logs.To(text(&out, logs.LevelTrace))
		log.WithLevel(from).Msg("x")
		if got, want := out.String(), "level="+to+" msg=x\n"; got != want {
			t.Errorf("%s: got %q, want %q", from, got, want)
		}
	}
}

// TestLevelMoves checks that the handler's own level decides anew for each line.
func TestLevelMoves(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	var now slog.LevelVar
	log := logs.To(text(&out, &now))
	made := false
	line := func() { log.Debug().Func(func(*zerolog.Event) { made = true }).Msg("x") }
	line()
	if out.Len() > 0 || made {
		t.Errorf("a line that nobody wants was written: %s", &out)
	}
	now.Set(slog.LevelDebug)
	line()
	if out.Len() == 0 {
		t.Error("the level was moved, and nothing comes")
	}
}

func Example() {
	h := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	log := logs.To(h) // to be set as machine.Config.Log
	log.Warn().Str("connection", "graph").Int("status", 412).Msg("signin/tokenExchange refused")
	// Output:
	// level=WARN msg="signin/tokenExchange refused" connection=graph status=412
}
