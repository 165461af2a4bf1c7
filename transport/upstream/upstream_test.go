package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/upstream"
)

// service is an upstream whose answers the test sets.
type service struct {
	*httptest.Server
	asked  atomic.Int64
	answer atomic.Pointer[http.HandlerFunc]
}

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{}
	s.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		(*s.answer.Load())(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *service) answers(h http.HandlerFunc) { s.answer.Store(&h) }

// then answers with the statuses in turn, and with the last one from then on.
func (s *service) then(statuses ...int) {
	var n atomic.Int64
	s.answers(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(statuses[min(int(n.Add(1)), len(statuses))-1])
		_, _ = w.Write(body)
	})
}

// cut closes the connection without an answer.
func cut(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// hang does not answer until the client has gone.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func newTransport(t *testing.T, cfg upstream.Config) *upstream.Transport {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = upstream.TokenService
	}
	tr := upstream.New(cfg)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// do makes a request and returns its status, 0 without an answer.
func do(ctx context.Context, t *testing.T, tr *upstream.Transport, method, url, body string) (status int, answer string, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.Client().Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func TestWhatOnlyReadsIsRepeated(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, method, path string
		repeatable         func(*http.Request) bool
		statuses           []int
		status, asked      int
	}{
		{"a read", http.MethodGet, "/api/usertoken/GetToken?userid=u", nil, []int{503, 429, 200}, 200, 3},
		{"a read through a gateway", http.MethodGet, "/", nil, []int{502, 504, 200}, 200, 3},
		{"no more than three tries", http.MethodGet, "/", nil, []int{503}, 503, 3},
		{"an answer is an answer", http.MethodGet, "/", nil, []int{500, 200}, 500, 1},
		{"no token", http.MethodGet, "/", nil, []int{404, 200}, 404, 1},
		{"a code is spent", http.MethodGet, "/api/usertoken/GetToken?userid=u&code=123456", nil, []int{503, 200}, 503, 1},
		{"a code in other case", http.MethodGet, "/api/usertoken/GetToken?Code=123456", nil, []int{503, 200}, 503, 1},
		{"an exchange", http.MethodPost, "/api/usertoken/exchange", nil, []int{503, 200}, 503, 1},
		{"a sign-out", http.MethodDelete, "/", nil, []int{503, 200}, 503, 1},
		{"the bot's own token", http.MethodPost, "/token", upstream.Always, []int{503, 200}, 200, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			s.then(c.statuses...)
			tr := newTransport(t, upstream.Config{Repeatable: c.repeatable})
			status, body, err := do(t.Context(), t, tr, c.method, s.URL+c.path, "what is sent")
			if err != nil || status != c.status || int(s.asked.Load()) != c.asked || body != "what is sent" {
				t.Errorf("%d %q after %d requests, %v; want %d after %d", status, body, s.asked.Load(), err, c.status, c.asked)
			}
			if got := tr.Circuits()[0].Retried; int(got) != c.asked-1 {
				t.Errorf("%d repeats counted", got)
			}
		})
	}
}

// TestNoAnswerIsRepeated checks that a request is repeated if its connection
// breaks, or could not be made.
func TestNoAnswerIsRepeated(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.answers(func(w http.ResponseWriter, r *http.Request) {
		if s.asked.Load() < 3 {
			cut(w, r)
		}
	})
	tr := newTransport(t, upstream.Config{})
	if status, _, err := do(t.Context(), t, tr, http.MethodGet, s.URL, ""); err != nil || status != http.StatusOK {
		t.Errorf("%d, %v", status, err)
	}
}

// TestRetryAfter checks that the upstream is left alone for as long as it asks.
// If the deadline does not allow that, its answer is returned.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.answers(func(w http.ResponseWriter, _ *http.Request) {
		if s.asked.Load() == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	tr := newTransport(t, upstream.Config{})
	begun := time.Now()
	if status, _, err := do(t.Context(), t, tr, http.MethodGet, s.URL, ""); err != nil || status != http.StatusOK {
		t.Errorf("%d, %v", status, err)
	}
	if took := time.Since(begun); took < time.Second {
		t.Errorf("asked again after %s", took)
	}

	s.asked.Store(0)
	for _, tt := range []struct {
		name, wait string
		bound      time.Duration
	}{{"a deadline", "30", 20 * time.Second}, {"for ages", "99999999999", time.Hour}} {
		s.answers(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", tt.wait)
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		ctx, cancel := context.WithTimeout(t.Context(), tt.bound)
		status, _, err := do(ctx, t, tr, http.MethodGet, s.URL, "")
		cancel()
		if err != nil || status != http.StatusServiceUnavailable {
			t.Errorf("%s: %d, %v", tt.name, status, err)
		}
	}
	if n := s.asked.Load(); n != 2 {
		t.Errorf("asked %d times, want once each", n)
	}
}

// open makes requests until the breaker refuses one.
func open(t *testing.T, tr *upstream.Transport, url string) *upstream.OpenError {
	t.Helper()
	var refused *upstream.OpenError
	for range 50 {
		_, _, err := do(t.Context(), t, tr, http.MethodPost, url, "")
		if errors.As(err, &refused) {
			return refused
		}
	}
	t.Fatal("the breaker never opens")
	return nil
}

// TestBreaker checks that a dead upstream gets only one request at a time as a
// probe, and that it is used again once a probe is answered. Each change writes
// one line to the log.
func TestBreaker(t *testing.T) {
	t.Parallel()
	s, other := newService(t), newService(t)
	s.answers(cut)
	var log bytes.Buffer
	tr := newTransport(t, upstream.Config{OpenFor: 500 * time.Millisecond, Log: zerolog.New(&log)})
	refused := open(t, tr, s.URL)
	if refused.Upstream != upstream.TokenService || refused.Wait <= 0 || refused.ErrorCode() != upstream.CodeOpen {
		t.Errorf("%+v", refused)
	}
	if n := s.asked.Load(); n != upstream.DefaultFailures {
		t.Errorf("asked %d times, want %d", n, upstream.DefaultFailures)
	}
	if status, _, err := do(t.Context(), t, tr, http.MethodGet, other.URL, ""); err != nil || status != http.StatusOK {
		t.Errorf("another host: %d, %v", status, err)
	}
	// A read that meets an open breaker is not repeated.
	before := tr.Circuits()
	if _, _, err := do(t.Context(), t, tr, http.MethodGet, s.URL, ""); err == nil {
		t.Error("a dead upstream answered")
	}
	for i, c := range tr.Circuits() {
		if c.Retried != before[i].Retried {
			t.Errorf("%+v: repeated", c)
		}
	}

	s.answers(func(http.ResponseWriter, *http.Request) {})
	deadline := time.Now().Add(30 * time.Second)
	for {
		status, _, err := do(t.Context(), t, tr, http.MethodPost, s.URL, "")
		if status == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("never used again: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, c := range tr.Circuits() {
		if c.Open {
			t.Errorf("%+v: still open", c)
		}
		if strings.Contains(s.URL, c.Host) && (c.Opened != 1 || c.Refused < 1) {
			t.Errorf("%+v", c)
		}
	}
	if n := strings.Count(log.String(), `"level":"warn"`); n != 1 || strings.Count(log.String(), `"level":"info"`) != 1 {
		t.Errorf("log: %s", log.String())
	}
}

// TestSlowIsDead checks that a deadline which passes after a while, before or
// during the answer, counts as a failure. One that passes at once does not.
func TestSlowIsDead(t *testing.T) {
	t.Parallel()
	half := func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("half of"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	for _, c := range []struct {
		name    string
		answer  http.HandlerFunc
		timeout time.Duration
		open    bool
	}{
		{"no answer", hang, 1200 * time.Millisecond, true},
		{"half an answer", half, 1200 * time.Millisecond, true},
		{"an impatient caller", hang, time.Millisecond, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			s.answers(c.answer)
			tr := newTransport(t, upstream.Config{Failures: 2, OpenFor: time.Hour})
			for range 2 {
				ctx, cancel := context.WithTimeout(t.Context(), c.timeout)
				if _, _, err := do(ctx, t, tr, http.MethodPost, s.URL, ""); err == nil {
					t.Error("answered")
				}
				cancel()
			}
			if got := tr.Circuits()[0].Open; got != c.open {
				t.Errorf("open: %t, want %t", got, c.open)
			}
		})
	}
}

// TestAnswersKeepItClosed checks that an upstream which answers does not count as
// dead, whatever the status.
func TestAnswersKeepItClosed(t *testing.T) {
	t.Parallel()
	s := newService(t)
	tr := newTransport(t, upstream.Config{})
	for _, status := range []int{200, 404, 412, 429, 500, 503} {
		s.then(status)
		for range 50 {
			if got, _, err := do(t.Context(), t, tr, http.MethodPost, s.URL, ""); err != nil || got != status {
				t.Fatalf("%d, %v; want %d", got, err, status)
			}
		}
	}
}

// TestWhoIsTold checks that the clients of the upstreams return the code of a
// refusal, and that the connector reports a refused message as not sent.
func TestWhoIsTold(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.answers(cut)
	tr := newTransport(t, upstream.Config{OpenFor: time.Hour})
	_ = open(t, tr, s.URL)

	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: s.URL, HTTPClient: tr.Client()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = tokens.GetToken(t.Context(), tokensvc.UserConnection{UserID: "u", Connection: "c", ChannelID: "msteams"}, tokensvc.Secret{})
	var fail *tokensvc.Error
	if !errors.As(err, &fail) || fail.Status != 0 || fail.Code != upstream.CodeOpen || fail.RetryAfter <= 0 {
		t.Errorf("token service: %v", err)
	}

	login, err := tokensvc.NewClientCredentials(tokensvc.ClientCredentialsConfig{
		LoginURL: s.URL, ClientID: "c", ClientSecret: tokensvc.NewSecret("s"), HTTPClient: tr.Client(),
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = login.Token(t.Context())
	if fail, ok := tokensvc.CredentialsFailure(err); !ok || fail.Code != upstream.CodeOpen {
		t.Errorf("credentials: %v", err)
	}

	host := strings.TrimPrefix(s.URL, "http://")
	allowed, err := teams.NewAllowList([]string{host}, false)
	if err != nil {
		t.Fatal(err)
	}
	connector, err := teams.NewConnector(teams.ConnectorConfig{
		Tokens: tokensvc.Static(tokensvc.NewSecret("t")), ServiceURLs: allowed, Transport: tr,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = connector.Send(t.Context(), store.Conversation{ServiceURL: s.URL, ID: "a:1", BotID: "b", UserID: "u"}, machine.Message{Text: "hello"})
	var unsent *teams.ConnectorError
	if !errors.As(err, &unsent) || !unsent.NotSent() || unsent.Code != upstream.CodeOpen ||
		unsent.HTTPStatus() != http.StatusServiceUnavailable || unsent.RetryAfter <= 0 {
		t.Errorf("connector: %v", err)
	}
}

// TestNobodyListens checks that a port on which nobody listens counts as an
// upstream without an answer.
func TestNobodyListens(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_ = open(t, newTransport(t, upstream.Config{OpenFor: time.Hour}), url)
}
