package teams_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// fakeEngine answers invokes as the test sets, and records the activities.
type fakeEngine struct {
	handle  func(ctx context.Context, a *machine.Activity) (machine.Answer, bool)
	invokes []*machine.Activity
	turns   []*machine.Activity
}

func (e *fakeEngine) HandleInvoke(ctx context.Context, a *machine.Activity) (machine.Answer, bool) {
	e.invokes = append(e.invokes, a)
	if e.handle == nil {
		return machine.Answer{}, false
	}
	return e.handle(ctx, a)
}

func (*fakeEngine) Before(context.Context, *machine.Turn) bool { return false }

func (e *fakeEngine) Turn(a *machine.Activity) *machine.Turn {
	e.turns = append(e.turns, a)
	return new(machine.Turn)
}

func answering(answer machine.Answer) func(context.Context, *machine.Activity) (machine.Answer, bool) {
	return func(context.Context, *machine.Activity) (machine.Answer, bool) { return answer, true }
}

func silent(context.Context, *machine.Turn) (*machine.Answer, error) { return nil, nil } //nolint:nilnil // ignores everything

func newHandler(tb testing.TB, eng teams.Engine, bot teams.BotFunc, change ...func(*teams.Config)) http.Handler {
	tb.Helper()
	cfg := teams.Config{InboundAuth: teams.InboundAuthNone, Listener: "127.0.0.1:3978", Log: zerolog.Nop()}
	for _, c := range change {
		c(&cfg)
	}
	h, err := teams.NewHandler(eng, cfg, bot)
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

func post(tb testing.TB, h http.Handler, body string) *httptest.ResponseRecorder {
	tb.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodPost, "/api/messages", strings.NewReader(body))
	h.ServeHTTP(w, r)
	return w
}

// change sets one member of a recorded activity; nil removes it.
func change(tb testing.TB, file, member string, value any) string {
	tb.Helper()
	var activity map[string]any
	if err := json.Unmarshal(recorded(tb, file), &activity); err != nil {
		tb.Fatal(err)
	}
	if value == nil {
		delete(activity, member)
	} else {
		activity[member] = value
	}
	b, err := json.Marshal(activity)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func TestHandlerAnswersInvokes(t *testing.T) {
	t.Parallel()
	invoke := string(recorded(t, "step5_verifystate.json"))
	body := machine.ExchangeResponse{ID: "1", ConnectionName: "a&b", FailureDetail: "no"}
	const bodyJSON = `{"id":"1","connectionName":"a&b","failureDetail":"no"}`
	tests := []struct {
		name       string
		engine     func(context.Context, *machine.Activity) (machine.Answer, bool)
		bot        teams.BotFunc
		status     int
		body       string
		retryAfter string
	}{
		{name: "engine, no body", engine: answering(machine.Answer{Status: 200}), status: 200},
		{name: "engine, body", engine: answering(machine.Answer{Status: 412, Body: body}), status: 412, body: bodyJSON},
		{name: "engine, body that is nil inside", engine: answering(machine.Answer{Status: 200, Body: (*machine.ExchangeResponse)(nil)}), status: 200},
		{name: "engine, store away", engine: answering(machine.Answer{Status: 503, RetryAfter: time.Second}), status: 503, retryAfter: "1"},
		{name: "engine, part of a second", engine: answering(machine.Answer{Status: 429, RetryAfter: 1200 * time.Millisecond}), status: 429, retryAfter: "2"},
		{name: "engine, status of no answer", engine: answering(machine.Answer{Status: 99}), status: 500},
		{name: "engine, body that cannot be encoded", engine: answering(machine.Answer{Status: 200, Body: func() {}}), status: 500},
		{
			name:   "engine panics",
			engine: func(context.Context, *machine.Activity) (machine.Answer, bool) { panic("engine") }, status: 500,
		},
		{name: "nobody", status: 501},
		{
			name: "bot, raw body",
			bot: func(context.Context, *machine.Turn) (*machine.Answer, error) {
				return &machine.Answer{Status: 200, Body: json.RawMessage(`{"task":{}}`)}, nil
			},
			status: 200, body: `{"task":{}}`,
		},
		{
			name:   "bot, empty answer",
			bot:    func(context.Context, *machine.Turn) (*machine.Answer, error) { return &machine.Answer{}, nil },
			status: 200,
		},
		{
			name: "bot fails",
			bot: func(context.Context, *machine.Turn) (*machine.Answer, error) {
				return &machine.Answer{Status: 200}, errors.New("broken")
			},
			status: 500,
		},
		{
			name: "bot fails for want of the store",
			bot: func(context.Context, *machine.Turn) (*machine.Answer, error) {
				return nil, fmt.Errorf("sign in: %w", store.ErrUnavailable)
			},
			status: 503, retryAfter: "1",
		},
		{
			name:   "bot panics",
			bot:    func(context.Context, *machine.Turn) (*machine.Answer, error) { panic("bot") },
			status: 500,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			asked := false
			bot := teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
				asked = true
				if tt.bot == nil {
					return silent(ctx, turn)
				}
				return tt.bot(ctx, turn)
			})
			w := post(t, newHandler(t, &fakeEngine{handle: tt.engine}, bot), invoke)
			if w.Code != tt.status || w.Body.String() != tt.body || w.Header().Get("Retry-After") != tt.retryAfter {
				t.Errorf("%d %q Retry-After %q, want %d %q %q", w.Code, w.Body, w.Header().Get("Retry-After"), tt.status, tt.body, tt.retryAfter)
			}
			contentType := ""
			if tt.body != "" {
				contentType = "application/json"
			}
			if got := w.Header().Get("Content-Type"); got != contentType {
				t.Errorf("Content-Type = %q, want %q", got, contentType)
			}
			if asked != (tt.engine == nil) {
				t.Errorf("bot asked: %v", asked)
			}
		})
	}
}

func TestHandlerAnswersEverythingElseWith200(t *testing.T) {
	t.Parallel()
	bots := map[string]teams.BotFunc{
		"nothing": silent,
		"answer that does not count": func(context.Context, *machine.Turn) (*machine.Answer, error) {
			return &machine.Answer{Status: 418, Body: "teapot"}, nil
		},
		"error": func(context.Context, *machine.Turn) (*machine.Answer, error) { return nil, errors.New("broken") },
		"panic": func(context.Context, *machine.Turn) (*machine.Answer, error) { panic("bot") },
	}
	for name, bot := range bots {
		for _, kind := range []string{"message", "conversationUpdate"} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				eng := &fakeEngine{handle: answering(machine.Answer{Status: 500})}
				w := post(t, newHandler(t, eng, bot), change(t, "step1_message.json", "type", kind))
				if w.Code != 200 || w.Body.Len() != 0 {
					t.Errorf("%d %q", w.Code, w.Body)
				}
				if len(eng.invokes) != 0 || len(eng.turns) != 1 || eng.turns[0].Type != kind {
					t.Errorf("invokes %v, turns %v", eng.invokes, eng.turns)
				}
			})
		}
	}
}

func TestHandlerRefuses(t *testing.T) {
	t.Parallel()
	const message = "step1_message.json"
	tests := []struct {
		name, body string
		status     int
	}{
		{"empty body", ``, 400},
		{"malformed JSON", `{"type":`, 400},
		{"no activity", `{}`, 400},
		{"without from", change(t, message, "from", nil), 400},
		{"from of another type", change(t, message, "from", "29:u"), 400},
		{"without conversation", change(t, message, "conversation", nil), 400},
		{"without service URL", change(t, message, "serviceUrl", nil), 400},
		{"update without from", change(t, "step5_verifystate.json", "from", nil), 400},
		{"query without from", `{"type":"invoke","name":"composeExtension/query"}`, 400},
		{"foreign service URL", change(t, message, "serviceUrl", "https://evil.example/"), 403},
		{"foreign service URL in a query", `{"type":"invoke","name":"composeExtension/query","from":{"id":"29:u"},"serviceUrl":"https://evil.example/"}`, 403},
		{"foreign service URL in the older envelope", `{"type":"invoke","name":"x","address":{"user":{"id":"29:u"},"conversation":{"id":"a:1"},"serviceUrl":"https://evil.example/"}}`, 403},
		{"plain http", change(t, message, "serviceUrl", "http://smba.trafficmanager.net/amer/"), 403},
		{"loopback without dev", change(t, message, "serviceUrl", "http://127.0.0.1:3979/"), 403},
		{"too long", change(t, message, "text", strings.Repeat("x", teams.MaxBody)), 413},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			eng := &fakeEngine{}
			w := post(t, newHandler(t, eng, silent), tt.body)
			if w.Code != tt.status || w.Body.Len() != 0 {
				t.Errorf("%d %q, want %d", w.Code, w.Body, tt.status)
			}
			if len(eng.invokes)+len(eng.turns) != 0 {
				t.Error("somebody was asked")
			}
		})
	}
}

func TestHandlerRefusesPagesOfOtherOrigins(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]http.Header{
		"by fetch metadata": {"Sec-Fetch-Site": {"cross-site"}},
		"by origin":         {"Origin": {"https://evil.example"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eng := &fakeEngine{}
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/messages", bytes.NewReader(recorded(t, "step1_message.json")))
			r.Header = header
			w := httptest.NewRecorder()
			newHandler(t, eng, silent).ServeHTTP(w, r)
			if w.Code != http.StatusForbidden || len(eng.turns) != 0 {
				t.Errorf("%d, turns %v", w.Code, eng.turns)
			}
		})
	}
}

func TestHandlerTakesQueriesOfOlderSDKs(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"complete":           string(recorded(t, "legacy_query.json")),
		"without an address": change(t, "legacy_query.json", "address", map[string]any{"user": map[string]string{"id": "29:u"}}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eng := &fakeEngine{}
			if w := post(t, newHandler(t, eng, silent), body); w.Code != 501 || len(eng.turns) != 1 {
				t.Errorf("%d, turns %v", w.Code, eng.turns)
			}
		})
	}
}

func TestHandlerTakesChunkedBodiesUpToTheLimit(t *testing.T) {
	t.Parallel()
	url := serve(t, newHandler(t, &fakeEngine{}, silent))
	for size, want := range map[int]int{1000: 200, teams.MaxBody - 4096: 200, teams.MaxBody + 1: 413} {
		body := change(t, "step1_message.json", "text", strings.Repeat("x", size))
		// A body of unknown length is sent in chunks.
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, io.MultiReader(strings.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
		if resp.StatusCode != want {
			t.Errorf("%d bytes: %d, want %d", size, resp.StatusCode, want)
		}
	}
}

func TestHandlerMethods(t *testing.T) {
	t.Parallel()
	for method, want := range map[string]int{
		http.MethodHead: 200, http.MethodGet: 405, http.MethodPut: 405, http.MethodDelete: 405, http.MethodOptions: 405,
	} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			eng := &fakeEngine{}
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(t.Context(), method, "/api/messages", bytes.NewReader(recorded(t, "step1_message.json")))
			newHandler(t, eng, silent).ServeHTTP(w, r)
			if w.Code != want || w.Body.Len() != 0 {
				t.Errorf("%d %q, want %d", w.Code, w.Body, want)
			}
			if want == 405 && w.Header().Get("Allow") != "HEAD, POST" {
				t.Errorf("Allow = %q", w.Header().Get("Allow"))
			}
			if len(eng.turns) != 0 {
				t.Error("the bot was asked")
			}
		})
	}
}

func TestHandlerTimesOutASlowBody(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(newHandler(t, &fakeEngine{}, silent))
	srv.Config.ReadTimeout = 50 * time.Millisecond
	srv.Start()
	t.Cleanup(srv.Close)
	body, end := io.Pipe()
	t.Cleanup(func() { _ = end.Close() })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	if resp.StatusCode != http.StatusRequestTimeout {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// TestHandlerContext checks that a caller who hangs up does not cancel the turn,
// and that the turn ends at its own deadline.
func TestHandlerContext(t *testing.T) {
	t.Parallel()
	type key struct{}
	const timeout = 20 * time.Millisecond
	for _, file := range []string{"step5_verifystate.json", "step1_message.json"} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			ctx, hangUp := context.WithCancel(context.WithValue(t.Context(), key{}, "kept"))
			asked := 0
			check := func(ctx context.Context) {
				asked++
				hangUp()
				if errors.Is(ctx.Err(), context.Canceled) || ctx.Value(key{}) != "kept" {
					t.Errorf("err %v, value %v", ctx.Err(), ctx.Value(key{}))
				}
				deadline, ok := ctx.Deadline()
				if left := time.Until(deadline); !ok || left > timeout {
					t.Errorf("deadline in %v, %v", left, ok)
					return // otherwise the wait would not end
				}
				<-ctx.Done()
				if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
					t.Errorf("ended by %v", ctx.Err())
				}
			}
			eng := &fakeEngine{handle: func(ctx context.Context, _ *machine.Activity) (machine.Answer, bool) {
				check(ctx)
				return machine.Answer{Status: 200}, true
			}}
			bot := func(ctx context.Context, _ *machine.Turn) (*machine.Answer, error) {
				check(ctx)
				return nil, nil //nolint:nilnil // ignores everything
			}
			h := newHandler(t, eng, bot, func(c *teams.Config) { c.TurnTimeout = timeout })
			r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/", bytes.NewReader(recorded(t, file)))
			h.ServeHTTP(httptest.NewRecorder(), r)
			if asked != 1 {
				t.Errorf("asked %d times", asked)
			}
		})
	}
}

func TestHandlerLogsNoContent(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	debug := func(c *teams.Config) { c.Log = zerolog.New(&out).Level(zerolog.DebugLevel) }
	h := newHandler(t, &fakeEngine{handle: answering(machine.Answer{Status: 412, Body: "answer-body"})}, silent, debug)
	post(t, h, string(recorded(t, "step5_verifystate.json")))
	post(t, h, change(t, "step1_message.json", "text", "typed-text"))
	post(t, h, `{"type":"message","text":"cut-off`)
	post(t, h, change(t, "step1_message.json", "serviceUrl", "https://evil.example/"))
	log := out.String()
	for _, hidden := range []string{"745254", "typed-text", "cut-off", "answer-body", seedUser, seedConversation} {
		if strings.Contains(log, hidden) {
			t.Errorf("%q is in the log:\n%s", hidden, log)
		}
	}
	for _, shown := range []string{`"name":"signin/verifyState"`, `"status":412`, `"status":200`, `"status":400`, `"status":403`, `"duration":`} {
		if !strings.Contains(log, shown) {
			t.Errorf("%s is not in the log:\n%s", shown, log)
		}
	}
}

func TestNewHandlerRefuses(t *testing.T) {
	t.Parallel()
	good := teams.Config{InboundAuth: teams.InboundAuthNone, Listener: "127.0.0.1:3978"}
	tests := []struct {
		name   string
		change func(*teams.Config)
		says   string
	}{
		{"jwt without an authenticator", func(c *teams.Config) { c.InboundAuth = teams.InboundAuthJWT }, "Authenticator"},
		{"authenticator without jwt", func(c *teams.Config) { c.Authenticator = new(teams.Authenticator) }, "Authenticator"},
		{"custom without a middleware", func(c *teams.Config) { c.InboundAuth = teams.InboundAuthCustom }, "Authenticate"},
		{"middleware without custom", func(c *teams.Config) { c.Authenticate = func(h http.Handler) http.Handler { return h } }, "Authenticate"},
		{"both", func(c *teams.Config) {
			c.InboundAuth, c.Authenticator = teams.InboundAuthJWT, new(teams.Authenticator)
			c.Authenticate = func(h http.Handler) http.Handler { return h }
		}, "Authenticate"},
		{"no word", func(c *teams.Config) { c.InboundAuth = "" }, "inbound_auth"},
		{"another word", func(c *teams.Config) { c.InboundAuth = "off" }, "inbound_auth"},
		{"every interface", func(c *teams.Config) { c.Listener = ":3978" }, "loopback"},
		{"no listener", func(c *teams.Config) { c.Listener = "" }, "host:port"},
		{"odd limits", func(c *teams.Config) { c.Limits.Queue = -1 }, "queue"},
		{"negative turn", func(c *teams.Config) { c.TurnTimeout = -1 }, "turn timeout"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := good
			tt.change(&cfg)
			h, err := teams.NewHandler(&fakeEngine{}, cfg, teams.BotFunc(silent))
			if err == nil || h != nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("err = %v", err)
			}
		})
	}
	if _, err := teams.NewHandler(nil, good, teams.BotFunc(silent)); err == nil {
		t.Error("accepted without an engine")
	}
	if _, err := teams.NewHandler(&fakeEngine{}, good, nil); err == nil {
		t.Error("accepted without a bot")
	}
}

// TestLogOfATurn checks that the context of a turn has the handler's logger with
// the ids of the activity. If the handler logs nothing, the context has no
// logger, so that the engine uses its own.
func TestLogOfATurn(t *testing.T) {
	t.Parallel()
	var level zerolog.Level
	eng := &fakeEngine{handle: func(ctx context.Context, _ *machine.Activity) (machine.Answer, bool) {
		level = zerolog.Ctx(ctx).GetLevel()
		zerolog.Ctx(ctx).Warn().Msg("of the turn")
		return machine.Answer{Status: http.StatusOK}, true
	}}
	var log bytes.Buffer
	for name, l := range map[string]zerolog.Logger{"there is one": zerolog.New(&log), "the zero logger": {}, "none": zerolog.Nop()} {
		level = zerolog.NoLevel
		h := newHandler(t, eng, silent, func(c *teams.Config) { c.Log = l })
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/messages", bytes.NewReader(recorded(t, "step5_verifystate.json")))
		req.Header.Set("MS-CV", "cv.1")
		h.ServeHTTP(httptest.NewRecorder(), req)
		if want := map[bool]zerolog.Level{true: zerolog.TraceLevel, false: zerolog.Disabled}[name == "there is one"]; level != want {
			t.Errorf("%s: level %s, want %s", name, level, want)
		}
	}
	if line := log.String(); !strings.Contains(line, `"ms_cv":"cv.1","message":"of the turn"`) || !strings.Contains(line, `"activity":"`) {
		t.Errorf("%s", line)
	}
}
