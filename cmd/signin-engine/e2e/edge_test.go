package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// metadata is the environment of a bot that expects tokens of the emulator's
// connector.
func metadata(base string) []string {
	return []string{
		"SIGNIN_ENGINE_INBOUND_AUTH=jwt", "SIGNIN_ENGINE_OPENID_METADATA_URL=" + base + "/v1/.well-known/openidconfiguration",
		"SIGNIN_ENGINE_LOG_LEVEL=info",
	}
}

// teams makes a user of the emulated Teams, whose requests carry tokens of the
// connector.
func (w *world) teams(t *testing.T, b *bot, n int) *emulator.Teams {
	t.Helper()
	user := w.Teams("http://bot/api/messages")
	user.HTTP = b.client(t)
	user.Authorize = w.Authorize(appID)
	user.User.ID = fmt.Sprintf("29:edge-%d", n)
	user.Conversation.ID = fmt.Sprintf("a:edge-%d", n)
	return user
}

// signsIn plays one silent sign-in.
func (w *world) signsIn(t *testing.T, user *emulator.Teams) {
	t.Helper()
	if a, err := user.SendMessage(t.Context(), "login graph"); err != nil || a.Status != http.StatusOK {
		t.Fatalf("message: %d, %v", a.Status, err)
	}
	card, err := w.WaitForCard(t.Context(), user.Conversation.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, err := user.TokenExchange(t.Context(), card.ExchangeID(), connection, "sso-"+user.User.ID)
	if err != nil || a.Status != http.StatusOK {
		t.Fatalf("tokenExchange: %d %s, %v", a.Status, a.Body, err)
	}
}

// ask sends a GET to the bot's listener and returns status and body.
func (b *bot) ask(t *testing.T, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://bot"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestTokensAreAskedFor checks that with inbound_auth jwt the connector gets in
// and nobody else does. A host that is not listed causes one warning and one line
// of doctor. Nothing of its request is stored.
func TestTokensAreAskedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	b := newBot(t, w, program(t, released), "")
	p := b.start(t, metadata(w.url)...)
	if status, body := b.ask(t, "/readyz"); status != http.StatusOK {
		t.Errorf("readyz: %d %s", status, body)
	}
	w.signsIn(t, w.teams(t, b, 1))

	stranger := w.teams(t, b, 2)
	stranger.Authorize = nil
	other := w.teams(t, b, 3)
	other.Authorize = w.Authorize("00000000-0000-4000-8000-000000000001")
	for name, user := range map[string]*emulator.Teams{"no token": stranger, "token of another bot": other} {
		for range 3 {
			a, err := user.SendMessage(t.Context(), "login graph")
			if err != nil || a.Status != http.StatusUnauthorized || len(a.Body) != 0 {
				t.Errorf("%s: %d %q, %v", name, a.Status, a.Body, err)
			}
		}
	}
	foreign := w.teams(t, b, 4)
	foreign.ServiceURL = "https://smba.evil.example/amer/"
	token, err := w.ConnectorToken(appID, foreign.ServiceURL)
	if err != nil {
		t.Fatal(err)
	}
	foreign.HTTP = &http.Client{Transport: bearer{b.client(t).Transport, token}}
	foreign.Authorize = nil
	for range 3 {
		if a, err := foreign.SendMessage(t.Context(), "login graph"); err != nil || a.Status != http.StatusForbidden {
			t.Errorf("foreign host: %d, %v", a.Status, err)
		}
	}
	for _, one := range []string{`"why":"token_missing"`, `"why":"audience"`, `"host":"smba.evil.example"`} {
		if n := strings.Count(string(b.log()), one); n != 1 {
			t.Errorf("%s is in the log %d times", one, n)
		}
	}
	stdout, _, _ := b.run(t, "doctor", "--store", "bolt:"+b.db)
	for _, part := range []string{"host smba.evil.example (3 times)", "service_urls", "audience (3 times)"} {
		if !strings.Contains(stdout, part) {
			t.Errorf("doctor does not say %q:\n%s", part, stdout)
		}
	}
	scraped := string(operatorJSON(t, b, "/metrics"))
	for _, sample := range []string{
		`signin_refused_total{why="service_host"} 3`, `signin_refused_total{why="audience"} 3`, `signin_refused_total{why="expired"} 0`,
		`signin_completed_total{method="tokenExchange"} 1`, `signin_attempts_open{state="CardSent"} 0`,
	} {
		if !strings.Contains(scraped, "\n"+sample+"\n") {
			t.Errorf("/metrics has no %s", sample)
		}
	}
	if strings.Contains(scraped, "\nsignin_store_commit_seconds_count 0\n") {
		t.Error("/metrics: no commit was measured")
	}
	p.stopped(t)
	for _, user := range []*emulator.Teams{stranger, other, foreign} {
		if stdout, _, _ := b.run(t, "list", "--store", "bolt:"+b.db, "--user", user.User.ID, "-o", "jsonl"); stdout != "" {
			t.Errorf("stored of somebody who was refused: %s", stdout)
		}
	}
}

// bearer adds a token to each request.
type bearer struct {
	http.RoundTripper
	token string
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.RoundTripper.RoundTrip(r)
}

// TestWithoutKeys checks that a bot which cannot fetch signing keys lets nobody
// in, and that its readiness check says so, in other words than for a bot without
// a store.
func TestWithoutKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	b := newBot(t, w, program(t, released), "")
	p := b.start(t, metadata("http://127.0.0.1:9")...)
	if status, body := b.ask(t, "/readyz"); status != http.StatusServiceUnavailable || body != "signing keys unavailable\n" {
		t.Errorf("readyz: %d %q", status, body)
	}
	if status, _ := b.ask(t, "/healthz"); status != http.StatusOK {
		t.Errorf("healthz: %d", status)
	}
	a, err := w.teams(t, b, 1).SendMessage(t.Context(), "login graph")
	if err != nil || a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
		t.Errorf("%d %v, %v", a.Status, a.Header, err)
	}
	p.stopped(t)
}

// TestRevokedBotToken checks that the bot gets a new token when the Token Service
// and the connector reject its old one, and that no user notices.
func TestRevokedBotToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	b := newBot(t, w, program(t, released), "")
	p := b.start(t, metadata(w.url)...)
	w.signsIn(t, w.teams(t, b, 1))
	w.Reset()
	w.signsIn(t, w.teams(t, b, 2))
	fetched, refused := 0, 0
	for _, e := range w.requests() {
		if strings.HasSuffix(e.path(), "/oauth2/v2.0/token") {
			fetched++
		}
		if e.status == http.StatusUnauthorized {
			refused++
		}
	}
	if fetched != 2 || refused != 1 {
		t.Errorf("%d tokens fetched, %d calls refused", fetched, refused)
	}
	p.stopped(t)
}

// TestBadCredentials checks that doctor fails, and quotes Entra's answer.
func TestBadCredentials(t *testing.T) {
	w := newWorld(t, true)
	b := newBot(t, w, program(t, released), "")
	p := b.start(t)
	t.Setenv("SIGNIN_ENGINE_CLIENT_SECRET", "expired-secret")
	stdout, stderr, code := b.run(t, "doctor", "--config", b.config)
	if code != 1 || !strings.Contains(stdout, "invalid_client") || strings.Contains(stdout+stderr, "expired-secret") {
		t.Errorf("exit %d:\n%s%s", code, stdout, stderr)
	}
	t.Setenv("SIGNIN_ENGINE_CLIENT_SECRET", "")
	if stdout, _, _ = b.run(t, "doctor", "--config", b.config); !strings.Contains(stdout, "Entra gave the bot a token") {
		t.Errorf("\n%s", stdout)
	}
	p.stopped(t)
}
