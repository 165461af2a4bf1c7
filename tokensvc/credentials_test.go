package tokensvc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// entra is a round tripper, so that the tests can run on a fake clock.
type entra func(n int, r *http.Request) (*http.Response, error)

type countedEntra struct {
	n  int
	do entra
}

func (c *countedEntra) RoundTrip(r *http.Request) (*http.Response, error) {
	c.n++
	return c.do(c.n, r)
}

func answer(status int, body string) (*http.Response, error) {
	return &http.Response{
		StatusCode: status, Header: http.Header{}, ContentLength: -1, Body: io.NopCloser(strings.NewReader(body)),
	}, nil
}

func issue(n int, _ *http.Request) (*http.Response, error) {
	return answer(http.StatusOK, fmt.Sprintf(`{"token_type":"Bearer","expires_in":3599,"access_token":"t%d"}`, n))
}

func credentials(t *testing.T, do entra) (*tokensvc.ClientCredentials, *countedEntra) {
	t.Helper()
	transport := &countedEntra{do: do}
	c, err := tokensvc.NewClientCredentials(tokensvc.ClientCredentialsConfig{
		ClientID: "app", ClientSecret: tokensvc.NewSecret("cl1ent s3cret"), HTTPClient: &http.Client{Transport: transport},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c, transport
}

func wantToken(t *testing.T, c *tokensvc.ClientCredentials, want string) {
	t.Helper()
	if got, err := c.Token(t.Context()); err != nil || got.Reveal() != want {
		t.Errorf("token %q, %v; want %s", got.Reveal(), err, want)
	}
}

func TestClientCredentialsRequest(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		want := url.Values{
			"grant_type": {"client_credentials"}, "client_id": {"app"}, "client_secret": {"cl1ent s3cret"},
			"scope": {"https://api.botframework.com/.default"},
		}
		if r.Method != http.MethodPost || r.URL.Path != "/my-tenant/oauth2/v2.0/token" || r.PostForm.Encode() != want.Encode() {
			t.Errorf("%s %s %v", r.Method, r.URL.Path, r.PostForm)
		}
		say(w, `{"token_type":"Bearer","expires_in":"3599","access_token":"t"}`)
	}))
	defer web.Close()
	c, err := tokensvc.NewClientCredentials(tokensvc.ClientCredentialsConfig{
		LoginURL: web.URL + "/", Tenant: "my-tenant", ClientID: "app", ClientSecret: tokensvc.NewSecret("cl1ent s3cret"),
	})
	if err != nil {
		t.Fatal(err)
	}
	wantToken(t, c, "t")
	wantToken(t, c, "t")
}

func TestClientCredentialsCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := credentials(t, issue)
		wantToken(t, c, "t1")
		time.Sleep(3599*time.Second - 5*time.Minute - time.Second)
		wantToken(t, c, "t1")
		time.Sleep(time.Second)
		wantToken(t, c, "t2")
		if e.n != 2 {
			t.Errorf("%d requests", e.n)
		}
	})
}

func TestClientCredentialsOutlivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := credentials(t, func(n int, r *http.Request) (*http.Response, error) {
			if n == 2 || n == 3 {
				return answer(http.StatusInternalServerError, "")
			}
			return issue(n, r)
		})
		wantToken(t, c, "t1")
		time.Sleep(3599*time.Second - 5*time.Minute)
		wantToken(t, c, "t1") // the refresh failed
		wantToken(t, c, "t1") // and is not tried again at once
		if e.n != 2 {
			t.Errorf("%d requests", e.n)
		}
		time.Sleep(6 * time.Minute) // now it has expired
		if _, err := c.Token(t.Context()); err == nil {
			t.Error("an expired token was given out")
		}
		wantToken(t, c, "t4") // an error is not cached
	})
}

func TestClientCredentialsSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c, e := credentials(t, func(n int, r *http.Request) (*http.Response, error) {
			<-release
			return issue(n, r)
		})
		first, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			_, err := c.Token(first)
			gone <- err
		}()
		synctest.Wait()
		got := make(chan string)
		for range 5 {
			go func() {
				token, err := c.Token(t.Context())
				if err != nil {
					t.Error(err)
				}
				got <- token.Reveal()
			}()
		}
		synctest.Wait()
		cancel() // who began it gives up; the others still get it
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled waiter: %v", err)
		}
		close(release)
		for range 5 {
			if token := <-got; token != "t1" {
				t.Errorf("token %q", token)
			}
		}
		if e.n != 1 {
			t.Errorf("%d requests", e.n)
		}
	})
}

func TestClientCredentialsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := credentials(t, func(_ int, r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		start := time.Now()
		_, err := c.Token(t.Context())
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != tokensvc.DefaultTimeout {
			t.Errorf("%v after %s", err, time.Since(start))
		}
	})
}

func TestClientCredentialsErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		status, wantStatus int
		body, code         string
	}{
		"wrong secret":  {401, 401, `{"error":"invalid_client","error_description":"cl1ent s3cret is wrong"}`, "invalid_client"},
		"unavailable":   {503, 503, "cl1ent s3cret", ""},
		"no JSON":       {200, 200, "cl1ent s3cret", ""},
		"without token": {200, 200, `{"expires_in":1}`, ""},
		"empty":         {200, 200, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := credentials(t, func(int, *http.Request) (*http.Response, error) { return answer(tc.status, tc.body) })
			_, err := c.Token(t.Context())
			var fail *tokensvc.Error
			if !errors.As(err, &fail) || fail.Op != tokensvc.OpAccessToken || fail.Status != tc.wantStatus || fail.Code != tc.code {
				t.Errorf("%+v", err)
			}
			redactedIn(t, err)
		})
	}
}

func TestNewClientCredentials(t *testing.T) {
	s := tokensvc.NewSecret("cl1ent s3cret")
	for name, cfg := range map[string]tokensvc.ClientCredentialsConfig{
		"no id":     {ClientSecret: s},
		"no secret": {ClientID: "app"},
		"URL":       {ClientID: "app", ClientSecret: s, LoginURL: "login"},
	} {
		_, err := tokensvc.NewClientCredentials(cfg)
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		redactedIn(t, err)
	}
}
