package tokensvc_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// counted makes tokens t1, t2 … that live for an hour.
func counted() (*tokensvc.TokenCache, *atomic.Int32) {
	n := new(atomic.Int32)
	return tokensvc.NewTokenCache(func(context.Context) (tokensvc.Secret, time.Time, error) {
		return tokensvc.NewSecret("t" + strconv.Itoa(int(n.Add(1)))), time.Now().Add(time.Hour), nil
	}, 0), n
}

func give(t *testing.T, c *tokensvc.TokenCache, want string) tokensvc.Secret {
	t.Helper()
	token, err := c.Token(t.Context())
	if err != nil || token.Reveal() != want {
		t.Errorf("token %q, %v; want %s", token.Reveal(), err, want)
	}
	return token
}

func TestDropToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := counted()
		c.DropToken(tokensvc.Secret{}) // nothing there yet
		first := give(t, c, "t1")
		c.DropToken(first)
		c.DropToken(first)
		give(t, c, "t2")
		c.DropToken(first) // a late caller's: the one that took its place stays
		give(t, c, "t2")
	})
}

// An upstream that refuses every token must not make the bot ask for one with
// every call.
func TestDropsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, n := counted()
		hammer := func() {
			for range 100 {
				token, err := c.Token(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				c.DropToken(token)
			}
		}
		hammer()
		if got := n.Load(); got != 6 {
			t.Errorf("%d fetches, want 1 and 5 after drops", got)
		}
		time.Sleep(time.Minute)
		hammer()
		if got := n.Load(); got != 11 {
			t.Errorf("%d fetches a minute later, want 5 more", got)
		}
	})
}

// A dropped token is not given out again, whatever becomes of the next fetch.
func TestDroppedTokenIsNoReserve(t *testing.T) {
	down := false
	c := tokensvc.NewTokenCache(func(context.Context) (tokensvc.Secret, time.Time, error) {
		if down {
			return tokensvc.Secret{}, time.Time{}, errors.New("down")
		}
		return tokensvc.NewSecret("t"), time.Now().Add(time.Hour), nil
	}, 0)
	token := give(t, c, "t")
	down = true
	c.DropToken(token)
	_, err := c.Token(t.Context())
	if e, ok := tokensvc.CredentialsFailure(err); !ok || e.Op != tokensvc.OpAccessToken {
		t.Errorf("%v", err)
	}
}

// rotating is a service that takes the latest token only.
type rotating struct {
	valid    atomic.Pointer[string]
	asked    atomic.Int32
	rejected atomic.Int32
}

func (s *rotating) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	if r.Header.Get("Authorization") != "Bearer "+*s.valid.Load() {
		s.rejected.Add(1)
		w.WriteHeader(http.StatusUnauthorized)
		say(w, `{"error":{"code":"Unauthorized"}}`)
		return
	}
	say(w, `{"token":"x","signInLink":"https://x","tokenResponse":{"token":"x"}}`)
}

func (s *rotating) take(token string) { s.valid.Store(&token) }

// A 401 of the service drops the token and is tried once more, whatever the
// operation.
func TestUnauthorizedIsTriedOnceMore(t *testing.T) {
	for op := range calls(nil) {
		t.Run(op, func(t *testing.T) {
			svc := &rotating{}
			web := httptest.NewServer(svc)
			defer web.Close()
			c, n := counted()
			do := calls(client(t, tokensvc.Config{BaseURL: web.URL, Credentials: c}))[op]
			svc.take("t1")
			if err := do(t.Context()); isUnauthorized(err) {
				t.Fatal(err)
			}
			svc.take("t2") // the token was revoked
			if err := do(t.Context()); isUnauthorized(err) {
				t.Error(err)
			}
			if svc.asked.Load() != 3 || svc.rejected.Load() != 1 || n.Load() != 2 {
				t.Errorf("%d calls, %d refused, %d tokens", svc.asked.Load(), svc.rejected.Load(), n.Load())
			}
			svc.take("none") // and this one is refused for good
			if err := do(t.Context()); !isUnauthorized(err) {
				t.Error(err)
			}
			if svc.asked.Load() != 5 {
				t.Errorf("%d calls, want one more try", svc.asked.Load())
			}
		})
	}
}

func isUnauthorized(err error) bool {
	var e *tokensvc.Error
	return errors.As(err, &e) && e.Status == http.StatusUnauthorized && e.Code == "Unauthorized"
}

// Without another token there is no second call.
func TestUnauthorizedWithoutAnotherToken(t *testing.T) {
	svc := &rotating{}
	svc.take("other")
	web := httptest.NewServer(svc)
	defer web.Close()
	for name, source := range map[string]tokensvc.TokenSource{
		"static": tokensvc.Static(tokensvc.NewSecret("t")),
		"none":   nil,
		"same again": tokensvc.NewTokenCache(func(context.Context) (tokensvc.Secret, time.Time, error) {
			return tokensvc.NewSecret("t"), time.Now().Add(time.Hour), nil
		}, 0),
	} {
		t.Run(name, func(t *testing.T) {
			before := svc.asked.Load()
			_, err := client(t, tokensvc.Config{BaseURL: web.URL, Credentials: source}).Exchange(t.Context(), user, tokensvc.NewSecret(ssoJWT))
			if !isUnauthorized(err) || svc.asked.Load() != before+1 {
				t.Errorf("%v, %d calls", err, svc.asked.Load()-before)
			}
		})
	}
}

// A bad credential is told from a refusal, through every wrapping.
func TestCredentialsFailure(t *testing.T) {
	entra := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusUnauthorized)
		say(w, `{"error":"invalid_client","error_description":"AADSTS7000215 `+botJWT+`"}`)
	}))
	defer entra.Close()
	source, err := tokensvc.NewClientCredentials(tokensvc.ClientCredentialsConfig{
		LoginURL: entra.URL, ClientID: "app", ClientSecret: tokensvc.NewSecret(botJWT),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer source.CloseIdleConnections()
	c := client(t, tokensvc.Config{BaseURL: "http://127.0.0.1:1", Credentials: source})
	for op, do := range calls(c) {
		err := do(t.Context())
		for name, wrapped := range map[string]error{
			"as it is": err, "wrapped": fmt.Errorf("sign in: %w", err), "joined": errors.Join(errors.New("other"), fmt.Errorf("x: %w", err)),
		} {
			e, ok := tokensvc.CredentialsFailure(wrapped)
			if !ok || e.Operation() != tokensvc.OpAccessToken || e.HTTPStatus() != 401 || e.ErrorCode() != "invalid_client" || e.RetryDelay() != 7*time.Second {
				t.Errorf("%s, %s: %+v, %v", op, name, e, ok)
			}
		}
		var outer *tokensvc.Error
		if !errors.As(err, &outer) || outer.Op != op || outer.Status != 0 {
			t.Errorf("%s: %+v", op, outer)
		}
		redactedIn(t, err)
	}
	for name, err := range map[string]error{
		"nil": nil, "other": errors.New("x"), "refused": &tokensvc.Error{Op: tokensvc.OpExchange, Status: 401},
		"joined": errors.Join(errors.New("x"), &tokensvc.Error{Op: tokensvc.OpGetToken, Err: context.Canceled}),
	} {
		if e, ok := tokensvc.CredentialsFailure(err); ok {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

// A secret that was changed is found by the next fetch; a token that is still
// good bridges the change.
func TestSecretIsReadBeforeEveryFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secret, right := "old", "old"
		var n int
		c, err := tokensvc.NewClientCredentials(tokensvc.ClientCredentialsConfig{
			ClientID: "app",
			SecretSource: func() (tokensvc.Secret, error) {
				if secret == "" {
					return tokensvc.Secret{}, errors.New("gone")
				}
				return tokensvc.NewSecret(secret), nil
			},
			HTTPClient: &http.Client{Transport: &countedEntra{do: func(_ int, r *http.Request) (*http.Response, error) {
				if err := r.ParseForm(); err != nil || r.PostForm.Get("client_secret") != right {
					return answer(http.StatusUnauthorized, `{"error":"invalid_client"}`)
				}
				n++
				return issue(n, r)
			}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		wantToken(t, c, "t1")
		right = "new" // at Entra first
		time.Sleep(55 * time.Minute)
		wantToken(t, c, "t1") // still good
		secret = "new"
		time.Sleep(time.Minute)
		wantToken(t, c, "t2")
		secret = ""
		time.Sleep(2 * time.Hour)
		_, err = c.Token(t.Context())
		if _, ok := tokensvc.CredentialsFailure(err); !ok {
			t.Errorf("%v", err)
		}
	})
}
