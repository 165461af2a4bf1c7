package operator_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// guessing is a TCP endpoint whose clock the test sets.
type guessing struct {
	t       *testing.T
	h       http.Handler
	now     time.Time
	log     bytes.Buffer
	mu      sync.Mutex
	refused map[operator.Refusal]int
}

const rightToken = "the-right-token-0123"

func guess(t *testing.T) *guessing {
	t.Helper()
	g := &guessing{t: t, now: time.Date(2026, 4, 22, 9, 5, 0, 0, time.UTC), refused: map[operator.Refusal]int{}}
	g.h = operator.NewHandler(operator.HandlerConfig{
		Reader: direct(fixture(t)), Token: tokensvc.NewSecret(rightToken), Clock: func() time.Time { return g.now },
		Log: zerolog.New(&g.log), OnRefused: func(why operator.Refusal) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.refused[why]++
		},
	})
	return g
}

// bearer sends a token from an address.
func (g *guessing) bearer(address, token string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "/info", nil)
	r.RemoteAddr = address
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	g.h.ServeHTTP(w, r)
	return w
}

func (g *guessing) want(w *httptest.ResponseRecorder, status int) {
	g.t.Helper()
	if w.Code != status {
		g.t.Fatalf("answered %d %s, want %d", w.Code, w.Body, status)
	}
}

// TestGuessesOfOneAddress checks that after ten wrong tokens no token of the address is
// accepted for a while, not even the right one. Other addresses are not affected.
func TestGuessesOfOneAddress(t *testing.T) {
	g := guess(t)
	const mallory, operators = "203.0.113.7:1234", "198.51.100.1:9"
	for i := range 10 {
		g.want(g.bearer(fmt.Sprintf("203.0.113.7:%d", i), fmt.Sprintf("wrong-token-%d", i)), http.StatusUnauthorized)
	}
	w := g.bearer(mallory, rightToken)
	g.want(w, http.StatusTooManyRequests)
	if w.Header().Get("Retry-After") != "6" || !strings.Contains(w.Body.String(), "too_many_tries") {
		t.Errorf("Retry-After %q, %s", w.Header().Get("Retry-After"), w.Body)
	}
	g.want(g.bearer(operators, rightToken), http.StatusOK)

	form := url.Values{"token": {rightToken}, "name": {"mallory"}}
	r := httptest.NewRequest(http.MethodPost, "/login", strings.NewReader(form.Encode()))
	r.RemoteAddr = mallory
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	page := httptest.NewRecorder()
	g.h.ServeHTTP(page, r)
	g.want(page, http.StatusTooManyRequests)
	if len(page.Result().Cookies()) > 0 || page.Header().Get("Retry-After") == "" || !strings.Contains(page.Body.String(), "Try again in 6 seconds") {
		t.Errorf("log-in page: %v %s", page.Header(), page.Body)
	}

	g.now = g.now.Add(6 * time.Second)
	g.want(g.bearer(mallory, "wrong again"), http.StatusUnauthorized)
	g.want(g.bearer(mallory, rightToken), http.StatusTooManyRequests)
	g.now = g.now.Add(6 * time.Second)
	g.want(g.bearer(mallory, rightToken), http.StatusOK)

	if g.refused[operator.WrongToken] != 11 || g.refused[operator.TooManyTries] != 3 {
		t.Errorf("counted %v", g.refused)
	}
	if text := g.log.String(); strings.Contains(text, rightToken) || strings.Contains(text, "wrong-token") || !strings.Contains(text, mallory) {
		t.Errorf("log: %s", text)
	}
}

// TestGuessesOfMany checks that all addresses share a limit, and that it does not apply
// to an address that has sent the right token.
func TestGuessesOfMany(t *testing.T) {
	g := guess(t)
	const known = "198.51.100.1:9"
	g.want(g.bearer(known, rightToken), http.StatusOK)
	for i := range 100 {
		g.want(g.bearer(fmt.Sprintf("203.0.113.%d:1", i), "wrong"), http.StatusUnauthorized)
	}
	g.want(g.bearer("192.0.2.1:1", rightToken), http.StatusTooManyRequests)
	g.want(g.bearer(known, rightToken), http.StatusOK)
	g.now = g.now.Add(time.Second)
	g.want(g.bearer("192.0.2.1:1", rightToken), http.StatusOK)
}

// TestGuessesOfANetwork checks that an IPv6 /64 network counts as one address.
func TestGuessesOfANetwork(t *testing.T) {
	g := guess(t)
	for i := range 10 {
		g.want(g.bearer(fmt.Sprintf("[2001:db8::%x]:1", i+1), "wrong"), http.StatusUnauthorized)
	}
	g.want(g.bearer("[2001:db8::ffff]:1", "wrong"), http.StatusTooManyRequests)
	g.want(g.bearer("[2001:db8:0:1::1]:1", "wrong"), http.StatusUnauthorized)
	g.want(g.bearer("[::ffff:203.0.113.9]:1", "wrong"), http.StatusUnauthorized)
}

// TestGuessersAreForgotten checks that the number of remembered addresses is bounded.
func TestGuessersAreForgotten(t *testing.T) {
	g := guess(t)
	for range 10 {
		g.want(g.bearer("203.0.113.7:1", "wrong"), http.StatusUnauthorized)
	}
	for i := range 1 << 12 {
		g.want(g.bearer(fmt.Sprintf("10.0.%d.%d:1", i>>8, i&0xff), rightToken), http.StatusOK)
	}
	g.want(g.bearer("203.0.113.7:1", "wrong"), http.StatusUnauthorized)
}
