package machinetest

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// outbox prints the callbacks of all attempts: how often each was tried and
// when it is next.
func (w *world) outbox(ctx context.Context, _ command) string {
	w.flush(ctx)
	page, err := w.mem.List(ctx, store.Filter{Limit: 1000})
	if err != nil {
		w.fail("%v", err)
	}
	for _, d := range page.Deliveries {
		line := fmt.Sprintf("  #%d/%s/%d %s, %d tries", w.number(d.Attempt), d.Kind, d.Round, d.Status, d.Tries)
		if d.Status == store.DeliveryPending {
			line += fmt.Sprintf(", next in %s", max(0, time.Until(d.NextAt)).Round(time.Millisecond))
		}
		if d.Error != "" {
			line += " (" + d.Error + ")"
		}
		w.say("%s", line)
	}
	return ""
}

// watch shows log warnings and the engine's error events, on instances started
// from now on.
func (w *world) watch(_ context.Context, _ command) string {
	w.config.Log = zerolog.New(logLines{w}).Level(zerolog.WarnLevel)
	w.config.Hooks.OnError = func(_ context.Context, _ *machine.Activity, err error) {
		w.say("error event: %s", w.renumber(err.Error()))
	}
	return ""
}

// logLines formats a log line: its message and its subject.
type logLines struct{ w *world }

func (l logLines) Write(p []byte) (int, error) {
	var line map[string]any
	if err := json.Unmarshal(p, &line); err != nil {
		return 0, fmt.Errorf("log line: %w", err)
	}
	said := fmt.Sprintf("log %s: %s", line["level"], line["message"])
	for _, key := range []string{"user", "conversation", "code", "client_message", "callback", "tries", "error", "hint"} {
		if v, ok := line[key]; ok {
			said += fmt.Sprintf("; %s: %v", key, v)
		}
	}
	l.w.say("%s", l.w.renumber(said))
	return len(p), nil
}

// answers makes the bot answer the next invokes of a kind itself: answers
// failure 418.
func (w *world) answers(_ context.Context, c command) string {
	status, err := strconv.Atoi(c.word(1))
	if c.word(0) != "failure" || err != nil {
		w.fail("answers %v", c.words)
	}
	w.config.Hooks.OnFailureInvoke = func(context.Context, *machine.Turn, machine.Failure) *machine.Answer {
		return &machine.Answer{Status: status}
	}
	return ""
}
